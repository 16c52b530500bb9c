// Zoom, movement and cursor of the explorer, the same in every panel; view.js has the rest and starts it.
"use strict";
function zoomTo(zoom, x, y) {
  state.zoom = Math.min(16, Math.max(1, zoom));
  const least = 1 - state.zoom;
  state.x = Math.min(0, Math.max(least, x));
  state.y = Math.min(0, Math.max(least, y));
  placeSheets();
}
function zoomAt(factor, u, v) {
  const zoom = Math.min(16, Math.max(1, state.zoom * factor)), grown = zoom / state.zoom;
  zoomTo(zoom, u - grown * (u - state.x), v - grown * (v - state.y));
}
function placeSheets() {
  $("zoom").textContent = `${Math.round(100 * state.zoom)} %`;
  $("panels").classList.toggle("zoomed", state.zoom > 1);
  for (const figure of panels()) {
    figure.querySelector(".sheet").style.transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.zoom})`;
    const stage = figure.querySelector(".stage");
    stage.classList.toggle("pixels", state.session.pixels || state.zoom > 4);
    stage.tabIndex = state.zoom > 1 ? 0 : -1;  // to be moved by arrow keys
  }
}
function pointers(stage) {
  const at = event => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const ways = {ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
  stage.addEventListener("keydown", event => {
    if (state.zoom === 1 || !ways[event.key]) return;
    event.preventDefault();
    const [x, y] = ways[event.key];
    zoomTo(state.zoom, state.x + x / 8, state.y + y / 8);
  });
  let from = null;
  stage.addEventListener("pointerdown", event => {
    if (state.zoom === 1) return;
    const [u, v] = at(event);
    from = [u - state.x, v - state.y];
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => {
    const [u, v] = at(event);
    if (from) zoomTo(state.zoom, u - from[0], v - from[1]);
    read((u - state.x) / state.zoom, (v - state.y) / state.zoom, u, v);
  });
  stage.addEventListener("pointerup", () => { from = null; });
  stage.addEventListener("pointercancel", () => { from = null; });
  stage.addEventListener("pointerleave", forget);
  stage.addEventListener("dblclick", event => state.zoom > 1 ? zoomTo(1, 0, 0) : zoomAt(4, ...at(event)));
  stage.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomAt(1.2 ** -Math.sign(event.deltaY), ...at(event));
  }, {passive: false});
}
function read(u, v, left, top) {
  const {width, height} = state.session, x = Math.floor(u * width), y = Math.floor(v * height);
  if (x < 0 || y < 0 || x >= width || y >= height) return forget();
  $("cursor").textContent = `x ${x}, y ${y}`;
  for (const figure of panels()) {
    const deviates = $("deviation").checked && figure.map.deviation, map = deviates ? figure.map.deviation : figure.map;
    const unit = map.unit === "bits" ? "bits in this pixel" : map.unit === "1" ? "(no unit: order only)" : map.unit;
    figure.querySelector(".here").textContent = `${rounded(map.values[y * width + x])} ${unit}`;
    const dot = figure.querySelector(".dot");
    dot.hidden = false;
    dot.style.left = `${100 * left}%`;
    dot.style.top = `${100 * top}%`;
  }
}
function forget() {
  for (const figure of panels()) {
    figure.querySelector(".dot").hidden = true;
    figure.querySelector(".here").textContent = "";
  }
}
