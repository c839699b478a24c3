"use strict";
// The board's page: asks the server every second for what has changed, and draws it; or shows the data it was given.

const DATA = JSON.parse(document.getElementById("data").textContent);  // {colours, still}; still is null on a server
const DASHES = ["none", "9 4", "2 3", "9 3 2 3"];
const SECOND = 1000, HEIGHT = () => window.innerWidth < 640 ? 320 : 440;
const place = id => document.getElementById(id);
const state = {metric: "", since: "", environment: "", runs: new Map(), groups: [], metrics: [], reading: 0,
               hidden: new Set(), open: null, detail: null, turn: 0, detailChange: -1, order: {column: 0, falls: false}};
const main = chart(place("curves")), small = new Map();

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole % 3600 / 60);
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

const metricText = name => ({return: "return, mean of the last 100 episodes",
                             evaluation: "return of evaluations"})[name] || name;
const known = value => value === null || value === undefined ? "" : numberText(value);
const groupOf = run => state.groups.find(group => group.runs.includes(run.id));
const look = group => {
  const number = state.groups.filter(each => each.environment === group.environment).indexOf(group);
  const colours = DATA.colours;
  return {colour: colours[number % colours.length], dash: DASHES[Math.floor(number / colours.length) % DASHES.length]};
};

// What is shown

function shownRuns() {
  const wanted = place("filter").value.trim().toLowerCase();
  return [...state.runs.values()].filter(run => {
    const group = groupOf(run), text = `${run.name} ${run.state} ${group ? group.label : ""}`.toLowerCase();
    return (run.fault || run.environment === state.environment) && (!wanted || text.includes(wanted));
  });
}

function shownGroups(runs) {
  const ids = new Set(runs.map(run => run.id));
  return state.groups.filter(group => group.environment === state.environment && group.runs.some(id => ids.has(id)));
}

function seriesOf(groups, runs) {
  const ids = new Set(runs.map(run => run.id)), alone = place("single").checked, series = [];
  for (const group of groups.filter(each => !state.hidden.has(each.key))) {
    const {colour, dash} = look(group), members = group.runs.filter(id => ids.has(id)).map(id => state.runs.get(id));
    const whole = group.line && members.length === group.runs.length;
    for (const run of members) if (!whole || alone) series.push({
      ...run.line, colour, dash, label: `${group.label}, seed ${run.seed}`, quiet: whole,
      width: whole ? 1 : 2, opacity: whole ? 0.4 : 1});
    if (whole) series.push({...group.line, y: group.line.mean, colour, dash, width: 2.5, label: group.label,
      note: at => `${group.line.seeds[at]} seed${group.line.seeds[at] === 1 ? "" : "s"}`});
  }
  return series;
}

function options(name, height) {
  return {name, height, unit: "environment steps", log: place("log").checked, smooth: Number(place("smooth").value)};
}

function render() {
  renderChoices();
  const runs = shownRuns(), groups = shownGroups(runs);
  setText(place("metric-name"), metricText(state.metric));
  main.draw(seriesOf(groups, runs), options(metricText(state.metric), HEIGHT()));
  renderGroups(groups);
  renderRuns(runs);
  renderStatus();
}

function renderStatus() {
  if (DATA.still) return setText(place("status"), "The run as it was when it last stopped.");
  const count = [...state.runs.values()].reduce((sum, {state: now}) => ({...sum, [now]: (sum[now] || 0) + 1}), {});
  const parts = ["running", "stopped", "finished", "damaged"].filter(now => count[now]).map(now => `${count[now]} ${now}`);
  const paths = state.paths.join(", ");
  const reading = state.reading ? ` Reading ${state.reading} more.` : "";
  setText(place("status"), parts.length ? `Runs in ${paths}: ${parts.join(", ")}.${reading}`
                                        : `No run in ${paths} yet; one appears here when it begins.`);
}

function renderChoices() {
  const environments = [...new Set([...state.runs.values()].filter(run => !run.fault).map(run => run.environment))];
  if (!environments.includes(state.environment)) state.environment = environments[0] || "";
  fill(place("environment"), environments, state.environment, name => name);
  place("environment").parentElement.hidden = environments.length < 2;
  fill(place("metric"), state.metrics, state.metric, metricText);
  setText(place("title"), DATA.still ? `${DATA.still.detail.algorithm} on ${DATA.still.detail.environment}`
                                     : state.environment || "Runs");
}

function fill(select, names, chosen, text) {
  if (JSON.stringify([...select.options].map(option => option.value)) !== JSON.stringify(names))
    select.replaceChildren(...names.map(name => el("option", {value: name, textContent: text(name)})));
  select.value = chosen;
}

// The table of groups is the legend

function renderGroups(groups) {
  const names = [...new Set(groups.flatMap(group => Object.keys(group.settings)))];
  const head = ["algorithm", ...names, "seeds", "last"];
  const rows = groups.map(group => {
    const values = group.line ? group.line.mean.filter(value => value !== null)
      : group.runs.map(id => state.runs.get(id)).filter(Boolean).map(run => run.last);
    return {key: group.key, group, cells: [group.algorithm, ...names.map(name => group.settings[name] || ""),
            String(group.runs.length), known(values[values.length - 1])]};
  });
  place("groups").hidden = groups.length < 2 && !names.length;
  const body = table(place("groups-table"), head, rows, (row, cells) => {
    const swatch = svg("svg", {width: 30, height: 10}, svg("line", {x1: 0, x2: 30, y1: 5, y2: 5, "stroke-width": 3}));
    const box = el("input", {type: "checkbox", onchange: () => {
      if (box.checked) state.hidden.delete(row.key); else state.hidden.add(row.key);
      render();
    }});
    cells[0].replaceChildren(el("label", {}, box, swatch, el("span")));
    return cells[0].querySelector("span");
  });
  for (const {key, group} of rows) {
    const row = body.get(key), line = row.querySelector("line"), {colour, dash} = look(group);
    row.querySelector("input").checked = !state.hidden.has(key);
    line.setAttribute("stroke", colour);
    line.setAttribute("stroke-dasharray", dash);
  }
}

// A row for each of `rows`, which have a key and texts; rows that exist are kept, so that nothing flickers.
// `first` fills the first cell of a new row and returns the node of its text. Returns the rows by key.
function table(node, head, rows, first) {
  const titles = JSON.stringify(head);
  if (node.dataset.titles !== titles) {
    node.dataset.titles = titles;
    node.replaceChildren(el("thead", {}, el("tr", {}, ...head.map(name => el("th", {textContent: name})))), el("tbody"));
  }
  const body = node.tBodies[0], there = new Map([...body.rows].map(row => [row.dataset.key, row]));
  const wanted = rows.map(row => {
    const made = there.get(row.key) || newRow(row, head, first);
    row.cells.forEach((text, column) => setText(made.texts[column], text));
    return made;
  });
  if (wanted.length !== body.rows.length || wanted.some((row, at) => body.rows[at] !== row))
    body.replaceChildren(...wanted);
  return new Map(wanted.map(row => [row.dataset.key, row]));
}

function newRow(row, head, first) {
  const made = el("tr"), cells = head.map(name => made.appendChild(el("td")));
  cells.forEach((cell, column) => { cell.dataset.label = head[column]; });
  made.dataset.key = row.key;
  made.texts = cells.map((cell, column) => column ? cell.appendChild(el("span")) : first(row, cells));
  return made;
}

// The table of runs

const COLUMNS = [
  ["run", run => run.name, run => run.name],
  ["group", run => (groupOf(run) || {label: run.algorithm}).label],
  ["seed", run => run.seed],
  ["state", run => run.state],
  ["step", run => run.step, run => `${run.step.toLocaleString("en")} of ${run.total.toLocaleString("en")}`],
  ["steps/s", run => run.rate, run => run.rate === null ? "" : short(run.rate)],
  ["time left", run => run.eta, run => duration(run.eta)],
  ["last", run => run.last, run => known(run.last)],
  ["evaluation", run => run.evaluation, run => known(run.evaluation)],
  ["findings", run => run.findings.length, run => run.fault || run.findings.join(", ")],
];

function renderRuns(runs) {
  const {column, falls} = state.order, value = COLUMNS[column][1];
  const compared = (a, b) => typeof a === "string" ? new Intl.Collator("en", {numeric: true}).compare(a, b) : a - b;
  const sorted = [...runs].sort((a, b) => {
    const one = value(a), other = value(b);
    if (one === null || other === null) return (one === null) - (other === null);
    return compared(one, other) * (falls ? -1 : 1);
  });
  const rows = sorted.map(run => ({key: String(run.id), run, cells: COLUMNS.map(([, raw, text]) =>
    String((text || raw)(run)))}));
  const node = place("runs-table");
  const body = table(node, COLUMNS.map(([name]) => name), rows, (row, cells) => {
    const button = el("button", {type: "button", onclick: () => openRun(row.run.id)});
    cells[0].replaceChildren(button);
    return button;
  });
  for (const {key, run} of rows) {
    body.get(key).className = run.state;
    body.get(key).setAttribute("aria-current", run.id === state.open);
  }
  [...node.tHead.rows[0].cells].forEach((cell, at) => {
    cell.setAttribute("aria-sort", at !== column ? "none" : falls ? "descending" : "ascending");
    cell.onclick = () => {
      state.order = {column: at, falls: at === column ? !falls : typeof COLUMNS[at][1](runs[0] || {findings: []}) === "number"};
      render();
    };
  });
}

// One run

function openRun(id) {
  if (DATA.still) return place("detail").scrollIntoView({behavior: "smooth"});
  Object.assign(state, {open: id, detail: null, detailChange: -1});
  small.clear();
  place("charts").replaceChildren();
  place("evaluation-chart").replaceChildren();
  render();
  poll();
}

function closeRun() {
  state.open = null;
  place("detail").hidden = true;
  render();
}

// Ask for the open run, if it has changed since it was last asked for.
async function readDetail() {
  const run = state.runs.get(state.open);
  if (!run || run.change === state.detailChange) return;
  const answer = await ask(`run/${run.id}`);
  if (run.id !== state.open) return;
  const first = state.detail === null;
  state.detailChange = run.change;
  showDetail(answer);
  if (first) place("detail").scrollIntoView({behavior: "smooth"});
}

function showDetail(detail) {
  state.detail = detail;
  const group = state.groups.find(each => each.runs.includes(state.open)) || {settings: {}};
  place("detail").hidden = false;
  setText(place("run-name"), detail.name);
  setText(place("fault"), detail.fault);
  const findings = detail.findings.map(({rule, evidence, advice, source}) => el("li", {}, el("strong", {}, rule),
    `: ${evidence} ${advice} `, el("small", {}, `Source: ${source}.`)));
  place("findings").replaceChildren(...(findings.length ? findings : [el("li", {}, "No rule applies.")]));
  showPictures(detail.pictures);
  drawSmall();
  showEvaluations(detail.evaluations);
  place("settings").replaceChildren(...detail.settings.map(({title, values}) => el("div", {}, el("h4", {}, title),
    el("dl", {}, ...Object.entries(values).flatMap(([name, text]) => {
      const kind = name in group.settings && title !== "Host" ? "differs" : "";
      return [el("dt", {className: kind}, name), el("dd", {className: kind}, text)];
    })))));
}

function showPictures(pictures) {
  const shown = JSON.stringify(pictures);
  if (place("pictures").dataset.shown === shown) return;
  place("pictures").dataset.shown = shown;
  place("pictures").replaceChildren(...pictures.map(({name, address, film}) => el("figure", {},
    film ? el("video", {src: address, controls: true, preload: "metadata"}) : el("img", {src: address, alt: name}),
    el("figcaption", {}, name))));
}

function drawSmall() {
  for (const {name, line, dots} of state.detail.charts) {
    if (!small.has(name)) {
      const host = el("div", {className: "chart"});
      place("charts").append(el("figure", {}, el("figcaption", {}, metricText(name)), host));
      small.set(name, chart(host));
    }
    const [colour] = DATA.colours, series = [{...line, colour, label: name}];
    if (dots) series.unshift({...dots, dots: true, colour, opacity: 0.3, label: "episodes"});
    small.get(name).draw(series, options(name, 220));
  }
}

function showEvaluations({x, mean, low, high, episodes, played}) {
  place("evaluations").hidden = !x.length;
  if (!x.length) return;
  if (!small.has("evaluation")) small.set("evaluation", chart(place("evaluation-chart")));
  const line = {x, y: mean, low, high, colour: DATA.colours[1], label: "mean, lowest and highest"};
  const dots = {x, y: mean, dots: true, colour: DATA.colours[1], label: "evaluations", opacity: 1};
  small.get("evaluation").draw([dots, line], {...options("evaluation", 220), smooth: 0});
  setText(place("played"), `The last evaluation, ${played} episode${played === 1 ? "" : "s"}`
    + (played > episodes.length ? `, of which the first ${episodes.length}:` : ":"));
  const rows = episodes.map(([number, total, length], at) => ({key: String(at), cells: [number, total, length].map(known)}));
  table(place("episodes-table"), ["episode", "return", "length"], rows, (row, cells) => cells[0].appendChild(el("span")));
}

// What arrives

function take(answer) {
  const here = new Set(answer.here);
  for (const id of [...state.runs.keys()]) if (!here.has(id)) state.runs.delete(id);
  for (const run of answer.runs) state.runs.set(run.id, run);
  for (const key of ["metrics", "metric", "paths", "reading"]) state[key] = answer[key];
  state.since = answer.until;
  if (answer.groups) state.groups = answer.groups;
  if (state.open !== null && !state.runs.has(state.open)) closeRun();
}

async function ask(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

async function poll() {
  const turn = ++state.turn;
  let wait = SECOND;
  try {
    const asked = `data?metric=${encodeURIComponent(state.metric)}&since=${encodeURIComponent(state.since)}`;
    const answer = await ask(asked);
    if (turn !== state.turn) return;
    const news = answer.runs.length || answer.groups || answer.here.length !== state.runs.size || !state.since;
    take(answer);
    if (news || state.reading || place("lost").hidden === false) render();
    place("lost").hidden = true;
    if (answer.unseen) wait = state.reading ? 0 : SECOND / 5;
    if (state.open !== null) await readDetail();
  } catch {
    if (turn !== state.turn) return;
    place("lost").hidden = false;
    wait = 2 * SECOND;
  }
  if (turn === state.turn) setTimeout(poll, wait);
}

function chooseMetric() {
  state.metric = place("metric").value;
  const nothing = {x: [], y: []};
  if (DATA.still) {
    const found = DATA.still.detail.charts.find(({name}) => name === state.metric), evaluations = DATA.still.detail.evaluations;
    for (const run of state.runs.values())
      run.line = found ? found.line : {x: evaluations.x, y: evaluations.mean};
    return render();
  }
  state.since = "";
  for (const run of state.runs.values()) Object.assign(run, {line: nothing, last: null});
  for (const group of state.groups) delete group.line;
  render();
  poll();
}

function start() {
  place("metric").addEventListener("change", chooseMetric);
  place("environment").addEventListener("change", () => { state.environment = place("environment").value; render(); });
  for (const id of ["log", "single", "smooth", "filter"]) place(id).addEventListener("input", () => {
    render();
    if (state.detail) drawSmall();
  });
  place("whole").addEventListener("click", () => [main, ...small.values()].forEach(each => each.reset()));
  place("close").addEventListener("click", closeRun);
  place("all").addEventListener("click", () => { state.hidden.clear(); render(); });
  place("none").addEventListener("click", () => {
    state.groups.forEach(group => state.hidden.add(group.key));
    render();
  });
  window.addEventListener("resize", () => [main, ...small.values()].forEach(each => each.redraw()));
  if (!DATA.still) return poll();
  take(DATA.still.overview);
  state.metrics = [...DATA.still.detail.charts.map(({name}) => name),
                   ...(DATA.still.detail.evaluations.x.length ? ["evaluation"] : [])];
  state.open = DATA.still.overview.here[0];
  place("close").hidden = true;
  render();
  showDetail(DATA.still.detail);
}

start();
