// The steps of a run: a slider over steps and one over images, a plot, what each readout reads. No library.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg", WIDTH = 640, HEIGHT = 440, EDGE = 24;
  const SHAPES = [  // what an image is: the forget class a disc, its neighbours a triangle and a square
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", "M0 -6L5.5 4.5L-5.5 4.5Z", "M-4.5 -4.5H4.5V4.5H-4.5Z",
  ];
  const CROSS = "M-9 0H9M0 -9V9", RING = "M-10 0a10 10 0 1 0 20 0a10 10 0 1 0 -20 0";

  function made(parent, name, attributes = {}, text = "") {
    const drawn = ["svg", "path", "text"].includes(name);
    const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return parent.appendChild(element);
  }

  function scale(data) {  // the same at every step
    const all = data.readings.flatMap((r) => [...r.points, ...r.means]);
    const range = (i) => [Math.min(...all.map((p) => p[i])), Math.max(...all.map((p) => p[i]))];
    const [[left, right], [low, high]] = [range(0), range(1)];
    const unit = Math.min((WIDTH - 2 * EDGE) / (right - left || 1), (HEIGHT - 2 * EDGE) / (high - low || 1));
    return ([x, y]) => [WIDTH / 2 + unit * (x - (left + right) / 2), HEIGHT / 2 - unit * (y - (low + high) / 2)];
  }

  function controls(figure, data) {
    const box = made(figure, "div", { class: "controls" });
    const slider = (name, count) => {
      const label = made(box, "label", {}, name);
      const input = made(label.parentNode, "input", { type: "range", min: 0, max: count - 1, value: 0, "aria-label": name });
      return [input, made(box, "output")];
    };
    const [step, stepSaid] = slider("Step", data.readings.length);
    const [image, imageSaid] = slider("Image", data.labels.length);
    made(box, "span", {}, "Colour");
    const colour = made(box, "select", { "aria-label": "Colour shows" });
    for (const [key, name] of data.readouts) made(colour, "option", { value: key }, `what ${name} reads`);
    return { step, stepSaid, image, imageSaid, colour };
  }

  function key(figure, data) {
    const box = made(figure, "div", { class: "key" });
    const names = [...data.classes.map((c) => data.names[c]), "read as another class"];
    names.forEach((name, i) => {
      const item = made(box, "span"), svg = made(item, "svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
      made(svg, "path", { d: SHAPES[i] || SHAPES[0], fill: data.colours[i] });
      item.append(i ? name : `${name} (forgotten)`);
    });
  }

  function table(parent, data) {
    const body = made(made(parent, "table"), "tbody"), head = made(body, "tr");
    for (const name of ["forget class read right, %", ...data.readouts.map(([, name]) => name)]) {
      made(head, "th", { scope: "col" }, name);
    }
    const row = (name, kind) => {
      const line = made(body, "tr", { class: kind });
      const first = made(line, "th", { scope: "row" }, name);
      return [first, ...data.readouts.map(() => made(line, "td"))];
    };
    const now = row("", "now");
    for (const [name, values] of data.beside) {
      const cells = row(name, "beside");
      values.forEach((value, i) => { cells[i + 1].textContent = value.toFixed(1); });
    }
    return now;
  }

  function start(root) {
    const data = JSON.parse(root.querySelector("script").textContent), figure = made(root, "div", { class: "live" });
    const place = scale(data), own = data.classes[0];
    root.dataset.ready = "yes";  // hides the picture, which is for paper
    made(figure, "figcaption", {}, `${data.model} forgets ${data.forget}: test images in the plane of three class means of `
      + `the Original (${data.profile}, seed ${data.seed}). The mark is what an image is, the colour what it is read as; `
      + "crosses are class means, the line is the way of the forgotten one.");
    root.style.accentColor = data.colours[0];
    const { step, stepSaid, image, imageSaid, colour } = controls(figure, data);
    const plot = made(figure, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    const way = made(plot, "path", { fill: "none", stroke: data.colours[0], "stroke-width": 1.5 });
    const shape = (c) => ({ d: SHAPES[data.classes.indexOf(c)], "fill-opacity": 0.75 });
    const marks = data.labels.map((c) => made(plot, "path", shape(c)));
    const means = data.classes.map(() => made(plot, "path", { d: CROSS, stroke: "#000", "stroke-width": 2.5 }));
    const ring = made(plot, "path", { d: RING, fill: "none", stroke: "#000", "stroke-width": 2 });
    key(figure, data);
    const below = made(figure, "div", { class: "below" }), seen = made(below, "div", { class: "seen" });
    const side = data.sprite?.side, thumbnail = side && made(seen, "canvas", { width: side, height: side, role: "img" });
    const told = made(seen, "p", { "aria-live": "polite" }), now = table(below, data), sheet = new Image();

    const share = (reading, readout) => {
      const read = reading[readout].filter((_, i) => data.labels[i] === own);
      return (100 * read.filter((c) => c === own).length / read.length).toFixed(1);
    };

    function draw() {
      const reading = data.readings[step.value], at = (p) => `translate(${place(p).join(" ")})`, i = Number(image.value);
      marks.forEach((mark, j) => {
        const found = data.classes.indexOf(reading[colour.value][j]);
        mark.setAttribute("transform", at(reading.points[j]));
        mark.setAttribute("fill", data.colours[found < 0 ? 3 : found]);
      });
      means.forEach((mean, j) => mean.setAttribute("transform", at(reading.means[j])));
      const passed = data.readings.slice(0, Number(step.value) + 1).map((r) => place(r.means[0]).join(" "));
      way.setAttribute("d", `M${passed.join("L")}`);
      ring.setAttribute("transform", at(reading.points[i]));
      const shares = data.readouts.map(([r]) => share(reading, r));
      [`${data.model}, step ${reading.step}`, ...shares].forEach((text, j) => { now[j].textContent = text; });
      const read = data.readouts.map(([, name], j) => `${name} ${shares[j]} %`);
      stepSaid.textContent = `${reading.step} of ${data.readings.at(-1).step}`;
      step.setAttribute("aria-valuetext", `step ${reading.step}: forget class read right: ${read.join(", ")}`);
      plot.setAttribute("aria-label", `Plot of ${data.labels.length} images at step ${reading.step}; ${read.join(", ")}`);
      tell(reading, i);
    }

    function tell(reading, i) {
      const names = data.readouts.map(([r, name]) => `${name} reads ${data.names[reading[r][i]]}`);
      told.textContent = [`A ${data.names[data.labels[i]]}, at step ${reading.step}`, ...names].join("\n");
      image.setAttribute("aria-valuetext", [`image ${i + 1}, a ${data.names[data.labels[i]]}`, ...names].join(", "));
      imageSaid.textContent = `${i + 1} of ${data.labels.length}`;
      if (!thumbnail || !sheet.complete) return;
      const across = data.sprite.across;
      thumbnail.setAttribute("aria-label", `the image, a ${data.names[data.labels[i]]}`);
      const [x, y] = [side * (i % across), side * Math.floor(i / across)];
      thumbnail.getContext("2d").drawImage(sheet, x, y, side, side, 0, 0, side, side);
    }

    plot.addEventListener("pointermove", (event) => {  // the nearest image, so that a finger finds it too
      const box = plot.getBoundingClientRect(), points = data.readings[step.value].points.map(place);
      const x = (event.clientX - box.left) * WIDTH / box.width, y = (event.clientY - box.top) * HEIGHT / box.height;
      const distances = points.map(([a, b]) => Math.hypot(a - x, b - y));
      image.value = distances.indexOf(Math.min(...distances));
      draw();
    });
    for (const control of [step, image, colour]) control.addEventListener("input", draw);
    sheet.addEventListener("load", draw);
    if (data.sprite) sheet.src = data.sprite.uri;
    draw();
  }

  document.querySelectorAll("figure.frames:not([data-ready])").forEach(start);
})();
