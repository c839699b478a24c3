"use strict";
// A line chart as SVG: hover, zoom by dragging, a log axis, smoothing. Numbers in, elements out; no library.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = {left: 58, right: 20, top: 10, bottom: 40};

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// The text of a number: five digits, or a power of ten where it is very large or very small.
function numberText(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "unknown";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e9 || size < 1e-4)) return value.toExponential(3);
  return value.toLocaleString("en", {maximumSignificantDigits: 5});
}

// 1500 -> 1.5k, 2000000 -> 2M.
function short(value) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(4))}${unit}`;
  return Math.abs(value) > 0 && Math.abs(value) < 1e-3 ? value.toExponential(0) : `${Number(value.toPrecision(4))}`;
}

// About `count` round numbers between two ends.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), found = [];
  for (let place = first; place * step <= high + 1e-9 * step; place++) found.push(place * step);
  return found;
}

// Powers of ten between two positive ends; round numbers, where there is at most one power.
function logTicks(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  if (last <= first) return ticks(low, high, count).filter(value => value > 0);
  const every = Math.max(1, Math.ceil((last - first) / count)), found = [];
  for (let power = first; power <= last; power += every) found.push(10 ** power);
  return found;
}

// The exponential mean of the points up to each x; its length is a share of the range from x0 to x1.
function smoothed(xs, ys, share, range) {
  if (!(share > 0) || !(range > 0)) return ys;
  let sum = 0, weight = 0, before = null;
  return xs.map((x, place) => {
    if (ys[place] === null) return null;
    const kept = before === null ? 0 : Math.exp(-(x - before) / (share * range));
    sum = kept * sum + ys[place];
    weight = kept * weight + 1;
    before = x;
    return sum / weight;
  });
}

// The place of the entry that is nearest to `at`, in numbers that rise; -1 if there is none.
function nearest(xs, at) {
  let low = 0, high = xs.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < at) low = middle + 1; else high = middle;
  }
  return low > 0 && at - xs[low - 1] <= xs[low] - at ? low - 1 : low;
}

// The lowest and the highest value within the range of x, with a little room; null if there is none.
function extent(series, range, log) {
  let low = Infinity, high = -Infinity;
  for (const {x, y, low: below, high: above} of series)
    x.forEach((at, place) => {
      if (at < range[0] || at > range[1]) return;
      for (const part of [y, below, above]) {
        const value = part ? part[place] : null;
        if (value === null || (log && value <= 0)) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    });
  if (low > high) return null;
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  const room = high > low ? 0.05 * (high - low) : Math.max(Math.abs(high) * 0.1, 0.5);
  return [low - room, high + room];
}

// The `d` of a path through the points; it breaks where a value is missing or does not fit on the axis.
function pathText(x, y, toX, toY) {
  let text = "", pen = "M";
  for (let place = 0; place < x.length; place++) {
    const at = y[place] === null ? NaN : toY(y[place]);
    if (!Number.isFinite(at)) { pen = "M"; continue; }
    text += `${pen}${toX(x[place]).toFixed(1)} ${at.toFixed(1)}`;
    pen = "L";
  }
  return text;
}

// The `d` of a closed band between two lines.
function bandText(x, low, high, toX, toY) {
  const places = x.map((_, place) => place).filter(place => low[place] !== null && high[place] !== null);
  const known = places.filter(place => Number.isFinite(toY(low[place])) && Number.isFinite(toY(high[place])));
  if (known.length < 2) return "";
  const edge = part => place => `${toX(x[place]).toFixed(1)} ${toY(part[place]).toFixed(1)}`;
  return `M${known.map(edge(high)).join("L")}L${known.reverse().map(edge(low)).join("L")}Z`;
}

// A chart inside `host`. A series has x, y, label, colour; where wanted low, high, dash, width, opacity, note,
// quiet (no hover) and dots. Returns draw(series, {log, smooth, unit, name, height}), redraw() and reset().
function chart(host) {
  const picture = host.appendChild(svg("svg", {role: "img"}));
  const tip = host.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  let series = [], options = null, zoom = null, grip = null, pointer = null, scale = null, marks = null, veil = null;

  function draw(newSeries, newOptions) {
    options = newOptions;
    const longest = Math.max(0, ...newSeries.map(({x}) => x.length ? x[x.length - 1] - x[0] : 0));
    const smooth = (x, y) => y && smoothed(x, y, options.smooth, longest);
    series = newSeries.map(one => one.dots ? one
      : {...one, y: smooth(one.x, one.y), low: smooth(one.x, one.low), high: smooth(one.x, one.high)});
    if (grip === null) redraw();
  }

  function redraw() {
    const width = Math.max(260, host.clientWidth), height = options.height;
    const last = series.reduce((most, {x}) => x.length ? Math.max(most, x[x.length - 1]) : most, -Infinity);
    const first = series.reduce((least, {x}) => x.length ? Math.min(least, x[0]) : least, 0);
    const range = zoom || [first, last > first ? last : first + 1];
    const span = extent(series, range, options.log) || extent(series, [-Infinity, Infinity], options.log)
      || [options.log ? 1 : 0, options.log ? 10 : 1];
    const inner = {x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right,
                   height: height - MARGIN.top - MARGIN.bottom};
    const up = options.log ? value => value > 0 ? Math.log(value) : NaN : value => value;
    const toX = x => inner.x + (x - range[0]) / (range[1] - range[0]) * inner.width;
    const toY = y => inner.y + inner.height * (1 - (up(y) - up(span[0])) / (up(span[1]) - up(span[0])));
    const fromX = left => range[0] + (left - inner.x) / inner.width * (range[1] - range[0]);
    scale = {range, toX, toY, fromX, width, height};
    const sizes = {width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": `${options.name} by ${options.unit}`};
    for (const [name, value] of Object.entries(sizes)) picture.setAttribute(name, value);
    const frame = svg("svg", {...inner, viewBox: `${inner.x} ${inner.y} ${inner.width} ${inner.height}`}, ...lines());
    marks = svg("g");
    veil = svg("rect", {y: inner.y, height: inner.height, width: 0, class: "veil"});
    picture.replaceChildren(...axes(range, span), frame, veil, marks);
    if (!series.some(({x}) => x.length)) picture.append(svg("text", {x: width / 2, y: height / 2,
      "text-anchor": "middle", class: "axis"}, "nothing to draw yet"));
    if (pointer) point();
  }

  function axes(range, span) {
    const {toX, toY, width, height} = scale, made = [];
    const wide = Math.max(2, Math.floor((width - MARGIN.left) / 90)), high = Math.max(2, Math.floor(height / 60));
    for (const y of options.log ? logTicks(...span, high) : ticks(...span, high)) made.push(
      svg("line", {x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(y), y2: toY(y), class: "grid"}),
      svg("text", {x: MARGIN.left - 8, y: toY(y) + 4, "text-anchor": "end", class: "axis"}, short(y)));
    for (const x of ticks(...range, wide)) made.push(
      svg("line", {x1: toX(x), x2: toX(x), y1: MARGIN.top, y2: height - MARGIN.bottom, class: "grid"}),
      svg("text", {x: toX(x), y: height - MARGIN.bottom + 17, "text-anchor": "middle", class: "axis"}, short(x)));
    made.push(svg("text", {x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle",
                           class: "axis"}, options.unit));
    return made;
  }

  function lines() {
    const {toX, toY} = scale, below = [], above = [];
    for (const {x, y, low, high, colour, dash, width, opacity, dots, quiet} of series) {
      const band = low && high ? bandText(x, low, high, toX, toY) : "";
      if (band) below.push(svg("path", {d: band, fill: colour, opacity: 0.16}));
      if (dots) {
        const text = x.map((at, place) => [toX(at), toY(y[place])]).filter(([, at]) => Number.isFinite(at))
          .map(([left, top]) => `M${left.toFixed(1)} ${top.toFixed(1)}h0`).join("");
        below.push(svg("path", {d: text, stroke: colour, "stroke-width": 4, "stroke-linecap": "round", opacity}));
        continue;
      }
      (quiet ? below : above).push(svg("path", {
        d: pathText(x, y, toX, toY), fill: "none", stroke: colour, "stroke-width": width || 2,
        "stroke-dasharray": dash || "none", "stroke-linejoin": "round", opacity: opacity || 1}));
    }
    return [...below, ...above];
  }

  // Show the values of the lines that are nearest to the pointer.
  function point(most = 8) {
    const box = picture.getBoundingClientRect(), left = pointer.x - box.left, top = pointer.y - box.top;
    const found = [];
    for (const one of series) {
      const place = one.quiet || one.dots ? -1 : nearest(one.x, scale.fromX(left));
      if (place < 0 || one.y[place] === null) continue;
      const px = scale.toX(one.x[place]), py = scale.toY(one.y[place]);
      if (Number.isFinite(py) && one.x[place] >= scale.range[0] && one.x[place] <= scale.range[1])
        found.push({one, place, px, py, far: Math.abs(py - top) + Math.abs(px - left)});
    }
    found.sort((a, b) => a.far - b.far);
    show(found.slice(0, most), left, top);
  }

  function show(found, left, top) {
    marks.replaceChildren(...found.map(({one, px, py}) =>
      svg("circle", {cx: px, cy: py, r: 4, fill: one.colour, stroke: "white", "stroke-width": 1.5})));
    tip.hidden = !found.length;
    if (!found.length) return;
    const {one: first, place: at} = found[0];
    tip.replaceChildren(row(`${first.x[at].toLocaleString("en")} ${options.unit}`), ...found.map(({one, place}) => {
      const between = one.low && one.low[place] !== null
        ? ` [${numberText(one.low[place])}, ${numberText(one.high[place])}]` : "";
      const note = one.note ? `, ${one.note(place)}` : "";
      return row(`${numberText(one.y[place])}${between}  ${one.label}${note}`, one.colour);
    }));
    const room = scale.width - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(0, left + 16 > room ? Math.min(room, left - tip.offsetWidth - 16) : left + 16)}px`;
    tip.style.top = `${Math.max(0, Math.min(top + 16, scale.height - tip.offsetHeight))}px`;
  }

  function row(text, colour) {
    const line = document.createElement("div");
    line.textContent = text;
    if (colour) line.style.borderLeftColor = colour;
    return line;
  }

  function hide() {
    pointer = null;
    tip.hidden = true;
    marks.replaceChildren();
  }

  const within = event => Math.min(Math.max(event.clientX - picture.getBoundingClientRect().left, MARGIN.left),
                                   scale.width - MARGIN.right);

  function release(event) {
    const ends = [grip, within(event)].sort((a, b) => a - b), dragged = grip !== null && ends[1] - ends[0] >= 8;
    grip = null;
    if (dragged && event.type === "pointerup") zoom = ends.map(scale.fromX);
    if (dragged) hide();
    redraw();
  }

  picture.addEventListener("pointerdown", event => {
    if (event.button !== 0 || !options) return;
    grip = within(event);
    picture.setPointerCapture(event.pointerId);
    pointer = {x: event.clientX, y: event.clientY};
    point();
  });
  picture.addEventListener("pointermove", event => {
    if (!options) return;
    if (grip === null) {
      pointer = {x: event.clientX, y: event.clientY};
      return point();
    }
    veil.setAttribute("x", Math.min(grip, within(event)));
    veil.setAttribute("width", Math.abs(within(event) - grip));
  });
  picture.addEventListener("pointerup", event => grip !== null && release(event));
  picture.addEventListener("pointercancel", event => grip !== null && release(event));
  picture.addEventListener("pointerleave", event => event.pointerType === "mouse" && options && hide());
  picture.addEventListener("dblclick", () => reset());

  function reset() {
    zoom = null;
    if (options) redraw();
  }

  return {draw, redraw: () => options && redraw(), reset};
}
