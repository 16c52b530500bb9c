"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Colour scheme: the system's, until the reader asks for another.
  const theme = document.getElementById("theme");
  const schemes = ["auto", "light", "dark"];
  const asked = location.hash.match(/theme=(light|dark)/);
  const show = (scheme) => {
    if (scheme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = scheme;
    theme.querySelector("span").textContent = scheme;
  };
  show(asked ? asked[1] : "auto");
  theme.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    show(schemes[(schemes.indexOf(now) + 1) % schemes.length]);
  });

  // Tables sort by a click on a column's head; what is not a number stays at the end.
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : parseFloat(cell.dataset.value);
  };
  const compare = (a, b, sign) => {
    const missing = (v) => typeof v === "number" && Number.isNaN(v);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  for (const button of all("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const first = head.dataset.first || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      all("th", head.parentElement).forEach((th) => th.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => compare(value(a, head.cellIndex), value(b, head.cellIndex), sign));
      body.append(...rows);
    });
  }

  // Curves: pick methods to see them before the others.
  for (const chart of all(".chart")) {
    const keys = all(".keys button", chart);
    const draw = (hovered) => {
      const picked = keys.filter((key) => key.getAttribute("aria-pressed") === "true" || key === hovered);
      chart.classList.toggle("picked", picked.length > 0);
      const names = new Set(picked.map((key) => key.dataset.method));
      all(".series", chart).forEach((line) => line.classList.toggle("on", names.has(line.dataset.method)));
    };
    for (const key of keys) {
      key.addEventListener("click", () => {
        key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") !== "true");
        draw();
      });
      key.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && draw(key));
      key.addEventListener("pointerleave", () => draw());
    }
  }

  // Gallery: one method on all pictures, or all methods on one picture.
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const buttons = all(".switch button", gallery);
  const figures = all(".pictures figure", gallery);
  const dialog = gallery.querySelector("dialog");
  const boxes = document.getElementById("boxes");
  const layerOf = (root, method) => root.querySelector(`[data-layer="${method}"]`);
  let current = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
  let opened = 0;

  // The ends of the colours, where the map is in bits per pixel.
  const scale = (bar, layer) => {
    if (!bar) return bar;
    bar.hidden = !layer.dataset.high;
    for (const end of ["low", "high"]) bar.querySelector(`.${end}`).textContent = layer.dataset[end] || "";
    return bar;
  };

  const choose = (index) => {
    current = (index + buttons.length) % buttons.length;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === current));
    const method = buttons[current].dataset.method;
    for (const figure of figures) {
      all("[data-layer]", figure).forEach((layer) => layer.classList.toggle("on", layer.dataset.layer === method));
      figure.querySelector(".score").textContent = layerOf(figure, method).dataset.caption || "";
      scale(figure.querySelector(".scale"), layerOf(figure, method));
    }
    all(".ramps > *", gallery).forEach((ramp) => { ramp.hidden = ramp.dataset.kind !== buttons[current].dataset.kind; });
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  document.getElementById("strength").addEventListener("input", (event) => {
    gallery.style.setProperty("--strength", event.target.value / 100);
  });
  boxes.addEventListener("change", () => gallery.classList.toggle("no-boxes", !boxes.checked));

  const open = (index) => {
    opened = (index + figures.length) % figures.length;
    const figure = figures[opened];
    dialog.querySelector("h3").textContent = figure.dataset.title;
    const views = buttons.map((button) => {
      const view = document.createElement("figure");
      const stage = document.createElement("div");
      const original = figure.querySelector(".stage");
      stage.className = original.className;
      stage.style.aspectRatio = original.style.aspectRatio;
      const layer = layerOf(figure, button.dataset.method);
      for (const node of [figure.querySelector(".base"), layer, figure.querySelector(".boxes")]) {
        if (node) stage.append(node.cloneNode(true));
      }
      stage.querySelector("[data-layer]").classList.add("on");
      const caption = document.createElement("figcaption");
      const name = document.createElement("b");
      name.textContent = button.textContent;
      const score = document.createElement("span");
      score.className = "score";
      score.textContent = layer.dataset.caption || "";
      caption.append(name, document.createElement("br"), score);
      const bar = figure.querySelector(".scale");
      if (bar) caption.append(scale(bar.cloneNode(true), layer));
      view.append(stage, caption);
      return view;
    });
    dialog.querySelector(".compare").replaceChildren(...views);
    if (!dialog.open) dialog.showModal();
  };
  figures.forEach((figure) => figure.querySelector(".stage").addEventListener("click", () => open(figures.indexOf(figure))));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.querySelector(".previous").addEventListener("click", () => open(opened - 1));
  dialog.querySelector(".next").addEventListener("click", () => open(opened + 1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  let near = false; // keys belong to the gallery only while it is on the screen
  new IntersectionObserver((entries) => { near = entries[0].isIntersecting; }).observe(gallery);
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof Element && event.target.matches("input, textarea, select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !(near || dialog.open)) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      if (dialog.open) open(opened + step);
      else choose(current + step);
    } else if (event.key === "b") {
      boxes.click();
    } else if (/^[0-9]$/.test(event.key) && Number(event.key) < buttons.length) {
      choose(Number(event.key));
    }
  });
  choose(current);

  // A number of the tables leads to the pictures that made it: its method on all of them, by its score.
  const order = gallery.querySelector(".order");
  const grid = gallery.querySelector(".pictures");
  const metrics = all(".metric", gallery);
  const arrange = (figuresInOrder) => {
    figures.splice(0, figures.length, ...figuresInOrder);
    grid.append(...figures);
  };
  const original = [...figures];
  for (const link of all("a.made")) {
    link.addEventListener("click", () => {
      const method = link.dataset.method;
      const metric = metrics[link.dataset.metric];
      choose(buttons.findIndex((button) => button.dataset.method === method));
      const score = (figure) => parseFloat(layerOf(figure, method).dataset.scores.split(" ")[link.dataset.metric]);
      const sign = metric.dataset.better === "lower" ? 1 : -1;
      arrange([...original].sort((a, b) => compare(score(a), score(b), sign)));
      order.querySelector("b").textContent = `${metric.textContent} of ${buttons[current].textContent}`;
      order.hidden = false;
    });
  }
  order.querySelector("button").addEventListener("click", () => {
    arrange(original);
    order.hidden = true;
  });
})();
