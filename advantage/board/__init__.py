"""The live board: a page that watches run folders, served on this machine, and the same page still, `report.html`."""
