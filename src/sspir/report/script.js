"use strict";
// One gallery: cards sorted by any metric, and a viewer with a before/after slider whose zoom all methods share.

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const badness = (facts, value) => {
  if (value === undefined) return -Infinity;
  if (facts.ideal !== null) return Math.abs(Math.log(Math.max(value, 1e-12) / facts.ideal));
  return facts.higher_is_better ? -value : value;
};

const show = (value) => (value === undefined ? "–" : Math.abs(value) < 10 ? value.toFixed(4) : value.toFixed(2));

const absent = (role) => make("span", { className: "absent", textContent: `no picture of ${role}` });

const chooser = (label, options, chosen, onchange) => {
  const select = make("select", { onchange: () => onchange(select.value) });
  select.append(...options.map((name) => make("option", { value: name, textContent: name, selected: name === chosen })));
  return [make("label", {}, label, select), select];
};

class View {
  // What part of the picture is seen: `scale` >= 1, and the top left corner (x, y) as shares of the picture.
  constructor(onchange) {
    this.onchange = onchange;
    this.reset();
  }
  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.onchange(this);
  }
  zoom(factor, atX = 0.5, atY = 0.5) {
    const scale = Math.min(32, Math.max(1, this.scale * factor));
    this.x += atX / this.scale - atX / scale;
    this.y += atY / this.scale - atY / scale;
    this.scale = scale;
    this.move(0, 0);
  }
  move(dx, dy) {
    const most = 1 - 1 / this.scale;
    this.x = Math.min(most, Math.max(0, this.x - dx / this.scale));
    this.y = Math.min(most, Math.max(0, this.y - dy / this.scale));
    this.onchange(this);
  }
  get transform() {
    return `scale(${this.scale}) translate(${-100 * this.x}%, ${-100 * this.y}%)`;
  }
}

const share = (element, event) => {
  const box = element.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
};

// Wheel and pinch zoom, drag pans; where nothing is zoomed in, dragging is handed to `slide` (if there is one).
const control = (element, view, slide) => {
  const fingers = new Map();
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY / 300), ...share(element, event));
  }, { passive: false });
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, share(element, event));
    if (slide && view.scale === 1) slide(share(element, event)[0]);
  });
  element.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const [before, now] = [fingers.get(event.pointerId), share(element, event)];
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    fingers.set(event.pointerId, now);
    if (others.length) {
      const distance = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]) || 1e-3;
      view.zoom(distance(now) / distance(before), (now[0] + others[0][0]) / 2, (now[1] + others[0][1]) / 2);
    } else if (slide && view.scale === 1) slide(now[0]);
    else view.move(now[0] - before[0], now[1] - before[1]);
  });
  for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => fingers.delete(event.pointerId));
};

const viewer = (root, metrics) => {
  const state = { image: null, left: null, right: null };
  const head = make("div");
  const stage = make("div", { className: "stage" });
  const strip = make("div", { className: "strip" });
  const slider = make("input", { type: "range", className: "slider", min: 0, max: 100, step: 0.1, value: 50, ariaLabel: "before and after" });
  const layer = make("div", { className: "layer" });
  const divider = make("div", { className: "divider" });
  const [leftImage, rightImage] = [make("img", { className: "before" }), make("img", { className: "after" })];
  const [leftTag, rightTag] = [make("span", { className: "tag left" }), make("span", { className: "tag right" })];
  layer.append(rightImage);
  stage.append(leftImage, layer, divider, leftTag, rightTag);

  const slide = () => {
    layer.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    divider.style.left = `${slider.value}%`;
  };
  slider.addEventListener("input", slide);
  const view = new View((now) => {
    for (const picture of root.querySelectorAll(".viewer img")) picture.style.transform = now.transform;
    root.querySelector(".viewer")?.classList.toggle("sharp", now.scale >= 3);
  });
  control(stage, view, (at) => { slider.value = 100 * at; slide(); });

  const bar = make("div", { className: "bar" });
  const draw = () => {
    const { name, caption, values, pictures, missing } = state.image;
    const roles = Object.keys(pictures);
    if (!roles.includes(state.left)) state.left = roles.includes("bicubic") ? "bicubic" : roles[0];
    if (!roles.includes(state.right)) state.right = roles.find((role) => !["bicubic", "hq"].includes(role)) ?? roles.at(-1);
    head.replaceChildren(make("h4", { textContent: name }), make("p", { className: "caption", textContent: caption }));
    const [left] = chooser("left", roles, state.left, (role) => { state.left = role; draw(); });
    const [right] = chooser("right", roles, state.right, (role) => { state.right = role; draw(); });
    const button = (text, title, action) => make("button", { type: "button", textContent: text, title, onclick: action });
    bar.replaceChildren(left, right, button("−", "zoom out", () => view.zoom(1 / 1.5)), button("+", "zoom in", () => view.zoom(1.5)), button("whole picture", "zoom out entirely", () => view.reset()));
    stage.hidden = slider.hidden = roles.length === 0;
    if (!roles.length) {
      strip.replaceChildren(make("p", { className: "note", textContent: "The pictures were not found where they were measured." }));
      return;
    }
    leftImage.onload = () => {
      const ratio = `${leftImage.naturalWidth} / ${leftImage.naturalHeight}`;
      for (const box of [stage, ...strip.querySelectorAll(".pane")]) box.style.aspectRatio = ratio;
    };
    [leftImage.src, rightImage.src] = [pictures[state.left], pictures[state.right]];
    [leftTag.textContent, rightTag.textContent] = [state.left, state.right];
    strip.replaceChildren(...[...roles, ...missing].map((role) => {
      const pane = make("div", { className: "pane" }, pictures[role] ? make("img", { src: pictures[role], alt: role }) : absent(role));
      control(pane, view, null);
      const numbers = Object.keys(metrics).filter((metric) => values[role]?.[metric] !== undefined)
        .map((metric) => `${metric} ${show(values[role][metric])}`).join(", ");
      return make("figure", {}, pane, make("figcaption", {}, make("b", { textContent: role }), numbers));
    }));
    view.onchange(view);
    slide();
  };
  root.append(make("div", { className: "viewer" }, head, bar, stage, slider, strip));
  return (image) => { state.image = image; draw(); };
};

const gallery = (root, { metrics, images }) => {
  if (!images.length) return;
  const methods = [...new Set(images.flatMap((image) => Object.keys(image.values)))];
  const restored = methods.filter((name) => name !== "bicubic" && !name.startsWith("noise@"));
  const state = { metric: Object.keys(metrics)[0], method: restored[0] ?? methods[0], worst: true, image: null };
  const open = viewer(root, metrics);
  const cards = make("div", { className: "cards" });
  const order = make("button", { type: "button", onclick: () => { state.worst = !state.worst; draw(true); } });

  const card = (image) => {
    const value = image.values[state.method]?.[state.metric];
    const picture = image.pictures[state.method];
    const before = image.pictures.bicubic ?? image.pictures.hq ?? picture;
    const sources = picture ? [before, picture] : [];
    const pair = make("span", { className: "pair" }, ...sources.map((src) => make("img", { src, alt: "", loading: "lazy" })));
    if (!picture) pair.append(absent(state.method));
    const text = make("span", { className: "text" }, make("b", { textContent: show(value) }), ` ${image.name}`);
    const element = make("button", { type: "button", className: "card", ariaPressed: image === state.image, onclick: () => {
      state.image = image;
      for (const other of cards.children) other.ariaPressed = other === element;
      open(image);
      root.querySelector(".viewer").scrollIntoView({ behavior: "smooth", block: "start" });
    } }, pair, text);
    element.dataset.image = image.name;
    element.dataset.value = value;
    return element;
  };

  const draw = (restart) => {
    order.textContent = state.worst ? "worst first" : "best first";
    const facts = metrics[state.metric];
    const cost = (image) => badness(facts, image.values[state.method]?.[state.metric]);
    const sorted = [...images].sort((a, b) => (state.worst ? cost(b) - cost(a) : cost(a) - cost(b)));
    if (restart || !state.image) open((state.image = sorted[0]));
    cards.replaceChildren(...sorted.map(card));
  };
  const [metricLabel, metricSelect] = chooser("sort by", Object.keys(metrics), state.metric, (name) => { state.metric = name; draw(true); });
  const [methodLabel, methodSelect] = chooser("of", methods, state.method, (name) => { state.method = name; draw(true); });
  metricSelect.className = "sort";
  methodSelect.className = "method";
  root.append(make("div", { className: "bar" }, metricLabel, methodLabel, order), cards);
  draw(true);
};

for (const [id, data] of Object.entries(JSON.parse(document.getElementById("data").textContent))) gallery(document.getElementById(id), data);

// A page that is renewed loads itself anew where it stood, with what was unfolded, once nobody is touching it.
const titleOf = (details) => details.querySelector("summary").textContent.replace(/ \(\d+\)$/, "");
const every = (selector) => [...document.querySelectorAll(selector)];

if (history.state?.unfolded) {
  const { unfolded, sideways, left, top } = history.state;
  for (const details of every("details")) details.open = unfolded.includes(titleOf(details));
  every(".scroll").forEach((box, index) => { box.scrollLeft = sideways[index] ?? 0; });
  window.scrollTo(left, top);
  history.replaceState(null, "");
}

const renewed = 1000 * document.body.dataset.renewed;
if (renewed) {
  let touched = -Infinity;
  for (const name of ["pointerdown", "pointermove", "wheel", "keydown", "scroll"]) addEventListener(name, () => { touched = performance.now(); }, { capture: true, passive: true });
  const renew = () => {
    const wait = touched + 2000 - performance.now();
    if (wait > 0) return setTimeout(renew, wait);
    const unfolded = every("details[open]").map(titleOf);
    const sideways = every(".scroll").map((box) => box.scrollLeft);
    history.replaceState({ unfolded, sideways, left: scrollX, top: scrollY }, "");
    location.reload();
  };
  setTimeout(renew, renewed);
}
