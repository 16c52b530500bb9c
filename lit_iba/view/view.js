// The explorer's page: what it shows comes from the server behind the same address, as plain values that become text and
// attributes, never markup.
"use strict";
const $ = id => document.getElementById(id);
const GONE = "The server has gone; start lit-iba view again.";
const PAGE = crypto.randomUUID();  // a newer question replaces those of this page alone
const SVG = "http://www.w3.org/2000/svg";
const state = {
  session: null, picture: 0, shown: [], details: null, maps: new Map(), answers: new Map(), trails: new Map(),
  zoom: 1, x: 0, y: 0, own: null, source: null, asking: 0,
};

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const colour = number => number < 0 ? "cx" : `c${number % 12}`;
const percent = p => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 5e-4 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %";
const rounded = v => Math.abs(v) >= 1e-3 || v === 0 ? String(+v.toPrecision(3)) : v.toExponential(1);

async function get(path) {
  const answer = await fetch(path).catch(() => { throw new Error(GONE); });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Methods: those of the session, and the map that the reader has set.
function methods() {
  return state.own ? [...state.session.methods, state.own] : state.session.methods;
}
const method = name => methods().find(one => one.name === name);
const key = name => `${state.picture}|${name}`;
const own = name => name.startsWith("own/");

async function mapOf(name) {
  const at = key(name);
  if (!state.maps.has(at) && !own(name)) {
    state.maps.set(at, get(`maps/${state.picture}/${encodeURIComponent(name)}`).then(decoded).catch(error => {
      state.maps.delete(at);  // to be asked for again
      throw error;
    }));
  }
  return state.maps.get(at);
}
function decoded(found) {
  for (const map of [found, found.deviation]) {
    if (map) map.values = new Float32Array(Uint8Array.from(atob(map.values), c => c.charCodeAt(0)).buffer);
  }
  return found;
}

// Pictures down the side.
function listPictures() {
  state.session.pictures.forEach((picture, i) => {
    const button = element("button", {type: "button", "aria-pressed": "false"}, picture.title);
    button.addEventListener("click", () => choosePicture(i));
    $("pictures").append(button);
    get(`pictures/${i}`).then(found => {
      picture.details = found;
      button.prepend(element("img", {src: found.photograph, alt: ""}));
    }).catch(() => {});  // it is asked for again when it is chosen
  });
}

async function choosePicture(number) {
  state.picture = number;
  stopListening();
  const picture = state.session.pictures[number];
  [...$("pictures").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
  $("heading").textContent = picture.title === picture.key ? picture.key : `${picture.title} · ${picture.key}`;
  if (state.own && !state.maps.has(key(state.own.name))) dropOwn();
  try {
    picture.details ??= await get(`pictures/${number}`);
  } catch (error) {
    if (state.picture === number) sayInstead(error);
    return;
  }
  if (state.picture !== number) return;
  state.details = picture.details;
  state.answers.clear();
  zoomTo(1, 0, 0);
  showPlaces();
  await showPanels();
  askAgain();
}
function dropOwn() {
  state.shown = state.shown.filter(name => name !== state.own.name);
  state.own = null;
  if (!state.shown.length) state.shown = [state.session.methods[0].name];
  listMethods();
}

// Buttons of methods: each shows or hides its panel.
function listMethods() {
  const focused = document.activeElement.dataset.method;  // a new button would lose the keyboard
  $("methods").replaceChildren(...methods().map(one => {
    const pressed = String(state.shown.includes(one.name));
    const button = element("button", {type: "button", "aria-pressed": pressed, "data-method": one.name, title: one.settings},
      element("span", {class: `swatch ${colour(one.color)}`}), one.label);
    button.addEventListener("click", () => toggle(one.name));
    return button;
  }));
  [...$("methods").children].find(button => button.dataset.method === focused)?.focus();
  $("deviation-choice").hidden = !methods().some(one => one.deviates);
}
async function toggle(name) {
  const on = state.shown.includes(name);
  if (on && state.shown.length === 1) return;
  state.shown = methods().map(one => one.name).filter(one => one === name ? !on : state.shown.includes(one));
  listMethods();
  await showPanels();
  showPlaces();
  askAgain();
}

// Panels: a map each, zoomed and moved together.
async function showPanels() {
  const number = state.picture;
  let made;
  try {
    made = await Promise.all(state.shown.map(async name => panel(name, await mapOf(name))));
  } catch (error) {
    if (number === state.picture) sayInstead(error);
    return;
  }
  if (number !== state.picture) return;
  $("panels").replaceChildren(...made);
  drawAnswers();
  placeSheets();
}
// Where panels cannot be had, those of another picture do not stay.
function sayInstead(error) {
  $("panels").replaceChildren(element("p", {class: "rule-note", role: "alert"}, error.message));
  $("places").replaceChildren();
}
function panel(name, map) {
  const one = method(name), {width, height, pixels} = state.session;
  const sheet = element("div", {class: "sheet"},
    element("img", {class: "base", alt: "", src: state.details.backdrop}),
    element("img", {class: "layer", alt: one.label, src: map.layer}));
  if (state.details.border) {
    const path = kind => drawing("path", {class: kind, d: state.details.border});
    sheet.append(drawing("svg", {class: "boxes", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"}, path("under"), path("over")));
  }
  const stage = element("div", {class: `stage${pixels ? " pixels" : ""}`, role: "group", "aria-label": `Map of ${one.label}`}, sheet, element("span", {class: "dot", hidden: ""}));
  stage.style.aspectRatio = `${width} / ${height}`;
  pointers(stage);
  const caption = element("figcaption", {},
    element("b", {class: "name"}, element("span", {class: `swatch ${colour(one.color)}`}), one.label), element("div", {class: "here"}),
    element("div", {class: "top5"}), element("div", {class: "trail"}), element("div", {class: "how"}), element("div", {class: "scale"}));
  const figure = element("figure", {"data-method": name}, stage, caption);
  figure.map = map;
  return figure;
}
const panels = () => [...$("panels").querySelectorAll("figure")];

// What each panel shows: the map, or its deviation, or what the classifier sees with pixels removed.
function drawAnswers() {
  const removing = state.session.live && +$("fraction").value > 0;
  for (const figure of panels()) {
    const name = figure.dataset.method, answer = state.answers.get(name);
    const deviates = $("deviation").checked && figure.map.deviation;
    const map = deviates ? figure.map.deviation : figure.map;
    const seen = removing && answer, layer = figure.querySelector(".layer");
    figure.querySelector(".base").src = seen ? answer.picture : state.details.backdrop;
    layer.src = map.layer;
    layer.style.opacity = seen && !$("over").checked ? 0 : $("strength").value / 100;
    const missing = $("deviation").checked && method(name).deviates && !figure.map.deviation;
    figure.querySelector(".how").textContent = [deviates ? "standard deviation" : "", map.caption, missing ? "asking for its deviation…" : ""]
      .filter(Boolean).join("; ");
    scale(figure.querySelector(".scale"), map);
    topFive(figure.querySelector(".top5"), answer, colour(method(name).color));
    trail(figure.querySelector(".trail"), name);
    if (missing) askDeviation(name);
  }
}
function scale(into, map) {
  const has = map.high !== "";
  into.hidden = !has && !map.signs;
  if (map.signs) into.replaceChildren("against ", element("span", {class: "ramp signs"}), " for what is explained");
  else if (has) into.replaceChildren(`${map.low} `, element("span", {class: "ramp sizes"}), ` ${map.high} bits per pixel`);
}
function topFive(into, answer, css) {
  if (!answer) return;
  into.className = `top5 ${css}`;
  const rows = answer.top.length ? answer.top : [[answer.target, answer.probability]];
  into.replaceChildren(...rows.flatMap(([name, p]) => {
    const bar = element("span", {class: "bar"});
    bar.style.width = `${100 * p}%`;
    const mark = name === answer.target ? "asked" : "";
    return [element("div", {title: name}, bar, element("span", {class: mark}, name)), element("b", {class: mark}, percent(p))];
  }));
}

// The probability of what is explained, at every share that was asked for so far.
const trailKey = name => [key(name), $("order").value, $("tile").value, $("fill").value].join("|");
function trail(into, name) {
  const points = [...(state.trails.get(trailKey(name)) ?? new Map())].sort((a, b) => a[0] - b[0]);
  if (points.length < 2) return into.replaceChildren();
  const at = ([f, p]) => `${(4 + 192 * f).toFixed(1)} ${(46 - 42 * p).toFixed(1)}`;
  const svg = drawing("svg", {viewBox: "0 0 200 50", class: colour(method(name).color), role: "img", "aria-label": "Probability of the target as pixels go"},
    drawing("line", {class: "grid", x1: 4, x2: 196, y1: 46, y2: 46}), drawing("line", {class: "grid", x1: 4, x2: 196, y1: 4, y2: 4}),
    drawing("line", {class: "asked-at", x1: 4 + 1.92 * $("fraction").value, x2: 4 + 1.92 * $("fraction").value, y1: 4, y2: 46}),
    drawing("path", {class: "line", d: `M${points.map(at).join("L")}`}));
  into.replaceChildren(svg, `probability of ${state.session.pictures[state.picture].target}, by the share removed`);
}

// Asking the classifier: one question at a time from here, always the newest.
let waiting = null;
async function ask() {
  if (!state.session.live) return;
  const mine = ++state.asking;
  $("removed").textContent = `${$("fraction").value} %`;
  if (waiting) await waiting;
  if (mine !== state.asking) return;
  waiting = answered(mine);
  await waiting;
  waiting = null;
}
// For new panels: not while a map is being made, which a newer question would stop, and which asks when it is there.
function askAgain() {
  if ($("progress").hidden) ask();
}
async function answered(mine) {
  const names = [...state.shown], keys = new Map(names.map(name => [name, trailKey(name)])), fraction = $("fraction").value / 100;
  const question = {
    page: PAGE, picture: state.picture, methods: names, order: $("order").value, fraction, fill: $("fill").value, tile: +$("tile").value,
  };
  const late = setTimeout(() => say("Waiting for the classifier…"), 1000);
  try {
    const answer = await fetch("ask", {method: "POST", body: JSON.stringify(question)});
    const found = await answer.json();
    if (found.superseded) return say("Another question came first; move the slider to ask again.");
    if (!answer.ok) return say(found.error);
    for (const [name, seen] of Object.entries(found)) {
      const known = state.trails.get(keys.get(name)) ?? new Map();
      state.trails.set(keys.get(name), known.set(fraction, seen.probability));
    }
    if (mine !== state.asking || question.picture !== state.picture) return;
    state.answers = new Map(Object.entries(found));
    const one = Object.values(found)[0];
    say(`${one.removed} of ${one.tiles} ${question.tile === 1 ? "pixels" : "tiles"} are gone. Explained: ${one.target}.`);
    drawAnswers();
  } catch (error) {
    say(GONE);
  } finally {
    clearTimeout(late);
  }
}
function say(text) { $("said").textContent = text; }

let playing = false;
async function play() {
  if (playing) { playing = false; return; }
  playing = true;
  $("play").textContent = "Stop";
  for (let share = 0; share <= 100 && playing; share += 5) {
    $("fraction").value = share;
    await ask();
  }
  playing = false;
  $("play").textContent = "Step by step";
}

// The run's own β to its last digit, which the slider's steps would miss.
function chosenBeta() {
  const own = Math.log10(state.session.beta), at = $("beta").valueAsNumber;
  return Math.abs(at - own) < 1e-9 ? state.session.beta : +Number(10 ** at).toPrecision(3);
}

// Maps that take time: progress comes as server-sent events.
function stopListening() {
  state.source?.close();
  if (!$("progress").hidden) $("iba-said").textContent = "Stopped: a newer question came first.";
  $("progress").hidden = true;
}
function listen(query, on) {
  stopListening();
  const source = state.source = new EventSource(`explain?${new URLSearchParams({...query, page: PAGE})}`);
  const ends = (kind, does) => source.addEventListener(kind, event => { source.close(); does(JSON.parse(event.data)); });
  source.addEventListener("progress", event => on.progress?.(JSON.parse(event.data)));
  ends("map", found => on.map(decoded(found)));
  ends("superseded", () => on.text("Stopped: a newer question came first."));
  ends("refused", found => on.text(found.error));
  source.onerror = () => { source.close(); on.text(GONE); };
}
function optimise() {
  const number = state.picture, layer = $("layer").value, beta = chosenBeta();
  const text = said => { $("progress").hidden = true; $("iba-said").textContent = said; };
  state.asking++;  // a question that still waits to be asked would stop this one; it is asked again afterwards
  playing = false;
  listen({picture: number, layer, beta}, {
    text: said => { text(said); if (number === state.picture) ask(); },
    progress: ({stage, done, total}) => { $("progress").value = done / total; $("iba-said").textContent = `${stage}: step ${done} of ${total}`; },
    map: found => {
      const statistics = found.own_statistics ? " Bits are relative to this picture's own features, for want of a data set's." : "";
      text(`Done: ${layer}, β ${beta}; ${found.caption}.${statistics}`);
      if (number !== state.picture) return;
      const before = state.own?.name;
      state.own = {name: found.name, label: `IBA, yours (${layer}, β ${beta})`, color: state.session.methods.length, unit: found.unit, settings: `layer = ${layer}, beta = ${beta}`};
      state.maps.set(key(found.name), Promise.resolve(found));
      state.shown = [...state.shown.filter(name => name !== before && name !== found.name), found.name];
      listMethods();
      showPanels().then(ask);
    },
  });
  $("progress").hidden = false;
  $("progress").value = 0;
  $("iba-said").textContent = "Preparing the layer…";
}
function askDeviation(name) {
  const number = state.picture;
  listen({picture: number, method: name}, {
    text: say,
    map: found => {
      const figure = panels().find(one => one.dataset.method === name);
      if (number !== state.picture || !figure || !found.deviation) return;
      figure.map.deviation = found.deviation;
      drawAnswers();
    },
  });
}

// The place of this picture among the run's images.
function showPlaces() {
  const metrics = state.details.metrics;
  $("metrics").hidden = !metrics.length;
  $("places").replaceChildren(...metrics.flatMap(metric => {
    const rows = state.shown.filter(name => metric.methods[name]).map(name => place(name, metric));
    const better = metric.better === "lower" ? "↓ lower is better" : "↑ higher is better";
    return [element("h4", {title: metric.definition}, metric.label, element("span", {class: "better"}, better),
      element("span", {class: "ends"}, `axis ${metric.low} to ${metric.high}`)), ...rows];
  }));
}
function place(name, metric) {
  const one = method(name), found = metric.methods[name], bins = found.counts.length, most = Math.max(...found.counts, 1);
  const svg = drawing("svg", {viewBox: "0 0 240 40", preserveAspectRatio: "none", class: colour(one.color), "aria-hidden": "true"},
    ...found.counts.map((count, i) => drawing("rect", {
      class: "histogram", x: 240 * i / bins, width: 240 / bins - 0.6, y: 38 - 30 * count / most, height: 30 * count / most})),
    drawing("line", {class: "mean-line", x1: 240 * found.mean_at, x2: 240 * found.mean_at, y1: 8, y2: 38}));
  if (found.at !== undefined) {
    const x = 240 * found.at;
    svg.append(drawing("path", {class: "own", d: `M${x} 10L${x - 3} 1L${x + 3} 1Z`}));
  }
  const score = found.score === undefined ? "no score" : `${found.score}`;
  const rank = found.score === undefined ? `mean ${found.mean}` : `place ${found.place} of ${found.images}, mean ${found.mean}`;
  return element("div", {class: "place"},
    element("span", {class: "name"}, element("span", {class: `swatch ${colour(one.color)}`}), element("span", {}, one.label)),
    element("div", {class: "spread-here"}, svg), element("span", {class: "at"}, element("b", {}, score), element("small", {}, rank)));
}

function theme() {
  const next = {auto: "light", light: "dark", dark: "auto"}, root = document.documentElement;
  const now = next[root.dataset.theme ?? "auto"];
  if (now === "auto") delete root.dataset.theme; else root.dataset.theme = now;
  $("theme").querySelector("span").textContent = now;
}

async function start() {
  state.session = await get("session");
  const {live, layers, methods: given} = state.session;
  state.shown = given.slice(0, innerWidth < 640 ? 2 : 3).map(one => one.name);
  $("removal").hidden = $("hand").hidden = !live;
  $("boxes-choice").hidden = !state.session.boxes;
  $("iba").hidden = !live || !layers.length;
  $("layer").append(...layers.map(layer => element("option", {value: layer}, layer)));
  $("layer").value = state.session.layer;
  const beta = Math.log10(state.session.beta);
  $("beta").min = Math.min(-1, beta);
  $("beta").max = Math.max(3, beta);
  $("beta").value = beta;
  listPictures();
  listMethods();
  $("theme").addEventListener("click", theme);
  for (const id of ["strength", "deviation", "over"]) $(id).addEventListener("input", drawAnswers);
  for (const id of ["fraction", "order", "tile", "fill"]) $(id).addEventListener("input", () => { playing = playing && id !== "fraction"; ask(); });
  const boxes = () => $("panels").classList.toggle("no-boxes", !$("boxes").checked);
  $("boxes").addEventListener("input", boxes);
  boxes();  // who comes back finds the choices that were left
  $("beta").addEventListener("input", () => { $("beta-value").textContent = String(chosenBeta()); });
  $("beta").dispatchEvent(new Event("input"));
  for (const id of ["beta", "layer"]) $(id).addEventListener("change", optimise);
  $("optimise").addEventListener("click", optimise);
  $("play").addEventListener("click", play);
  $("zoom-in").addEventListener("click", () => zoomAt(1.5, 0.5, 0.5));
  $("zoom-out").addEventListener("click", () => zoomAt(1 / 1.5, 0.5, 0.5));
  await choosePicture(0);
}
start();
