// Curves are read by pointing at them, or with the arrow keys; a legend with buttons hides lines.
const shown = (value) => (Number.isInteger(value) ? value : Number(value.toPrecision(4))).toLocaleString("en", { maximumSignificantDigits: 5 });
for (const plot of document.querySelectorAll(".plot")) {
  const figure = plot.parentElement, svg = plot.querySelector("svg"), readout = figure.querySelector(".readout");
  const { x, y, label, lines } = JSON.parse(figure.querySelector("script").textContent);
  const [left, right, low, high] = x, at = (value) => left + ((right - left) * (value - low)) / (high - low);
  const places = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const nearest = (points, value) => points.reduce((best, point) => (Math.abs(point[0] - value) < Math.abs(best[0] - value) ? point : best));
  const rule = addSvg(svg, "line", { class: "follow", y1: y[0], y2: y[1], visibility: "hidden" });
  let place = -1;
  const show = (index) => {
    place = Math.max(0, Math.min(places.length - 1, index));
    const value = places[place];
    rule.setAttribute("x1", at(value));
    rule.setAttribute("x2", at(value));
    rule.setAttribute("visibility", "visible");
    readout.replaceChildren();
    add(readout, "span", `${label} ${shown(value)}`);
    for (const line of lines) {
      if (!line.points.length || svg.querySelector(`.line.c${line.colour}[hidden]`)) continue;
      const entry = add(readout, "span");
      add(entry, "span", "", `mark c${line.colour}`);
      entry.append(visible(`${line.name} ${shown(nearest(line.points, value)[1])}`));
    }
  };
  const leave = () => { rule.setAttribute("visibility", "hidden"); readout.replaceChildren(); place = -1; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const value = low + (((event.clientX - box.left) / box.width) * width - left) / (right - left) * (high - low);
    show(places.indexOf(nearest(places.map((one) => [one]), value)[0]));
  });
  svg.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place < 0 ? (step > 0 ? 0 : places.length - 1) : place + step);
  });
}
for (const legend of document.querySelectorAll("[data-toggles]")) {
  const charts = byId(`${legend.dataset.toggles}-charts`);
  for (const entry of [...legend.children]) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...entry.childNodes);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      for (const line of charts.querySelectorAll(`.line.c${entry.dataset.colour}`)) line.toggleAttribute("hidden", !on);
    });
    entry.replaceWith(button);
  }
}
