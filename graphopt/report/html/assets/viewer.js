"use strict";
(() => {
  const data = JSON.parse(document.getElementById("drawings").textContent);
  const root = document.querySelector(".viewer"), svg = root.querySelector(".canvas"), layer = svg.querySelector("g");
  const aside = root.querySelector("aside"), select = root.querySelector("select"), search = root.querySelector("input");
  const W = 132, H = 34, NS = "http://www.w3.org/2000/svg";
  let side = "after", graph = null, boxes = [], view = { x: 0, y: 0, k: 1 }, chosen = null, whole = true;

  const make = (tag, attributes, parent) => {
    const element = document.createElementNS(NS, tag);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.appendChild(element);
    return element;
  };
  const add = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.appendChild(element);
    return element;
  };
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

  // Where a node is: side, graph and position, by its key.
  const places = { before: new Map(), after: new Map() };
  for (const name of ["before", "after"])
    data[name].forEach((one, g) => one.nodes.forEach((node, i) => places[name].set(node.k, { g, i })));

  function path(points) {
    let d = `M${points[0]} ${points[1]}`, jump = false;
    for (let i = 2; i < points.length; i += 2) {
      const [x0, y0, x1, y1] = [points[i - 2], points[i - 1], points[i], points[i + 1]];
      if (y1 < y0) { jump = true; d += `C${x0} ${y0 + 40} ${x1} ${y1 - 40} ${x1} ${y1}`; }
      else { const m = (y0 + y1) / 2; d += `C${x0} ${m} ${x1} ${m} ${x1} ${y1}`; }
    }
    return { d, jump };
  }

  function draw() {
    layer.replaceChildren();
    const lines = make("g", {}, layer);
    for (const [a, b, ...bends] of graph.edges) {
      const from = graph.nodes[a], to = graph.nodes[b];
      const { d, jump } = path([from.x, from.y + H / 2, ...bends, to.x, to.y - H / 2]);
      make("path", jump ? { d, class: "jump" } : { d }, lines);
    }
    boxes = graph.nodes.map((node, i) => {
      const tinted = node.c >= 0;
      const box = make("g", { class: "box" + (node.gone ? " gone" : tinted ? " tinted" : ""), transform: `translate(${node.x - W / 2} ${node.y - H / 2})`, "data-i": i }, layer);
      make("rect", { width: W, height: H, rx: 6, ...(tinted ? { class: "p" + (node.c % 8) } : {}) }, box);

      const label = make("text", { x: W / 2, y: node.l ? 15 : 21 }, box);
      label.textContent = cut(node.o, 24);
      if (node.o.length > 15) label.style.fontSize = `${Math.max(8, 190 / Math.min(node.o.length, 24)).toFixed(1)}px`;
      if (node.l) make("text", { x: W / 2, y: 27 }, box).textContent = cut(node.l, 26);
      return box;
    });
  }

  function apply() {
    layer.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
    svg.classList.toggle("far", view.k < 0.3);
    svg.classList.toggle("middle", view.k >= 0.3 && view.k < 0.55);
  }
  function fit() {
    const box = svg.getBoundingClientRect();
    const k = Math.min(1.1, (box.width - 24) / (graph.w || 1), (box.height - 24) / (graph.h || 1));
    view = { k, x: (box.width - graph.w * k) / 2, y: (box.height - graph.h * k) / 2 };
    whole = true;
    apply();
  }
  function zoom(factor, cx, cy) {
    const k = Math.min(4, Math.max(0.01, view.k * factor)), ratio = k / view.k;
    whole = false;
    view = { k, x: cx - (cx - view.x) * ratio, y: cy - (cy - view.y) * ratio };
    apply();
  }
  function centre(node) {
    const box = svg.getBoundingClientRect(), k = Math.max(view.k, 0.8);
    whole = false;
    view = { k, x: box.width / 2 - node.x * k, y: box.height / 2 - node.y * k };
    apply();
  }

  function show(name, g) {
    side = name;
    graph = data[side][g];
    chosen = null;
    for (const button of root.querySelectorAll("[data-side]")) button.setAttribute("aria-pressed", button.dataset.side === side);
    select.replaceChildren();
    data[side].forEach((one, i) => { add("option", `${one.title} (${one.nodes.length})`, select).value = i; });
    select.value = g;
    select.hidden = data[side].length < 2;
    draw();
    open();
  }
  // A graph that fits at a readable size is shown whole; a larger one from its first layer on, or the first node with a history.
  function open() {
    fit();
    const told = (node) => (node.s && node.s.length ? 2 : 0) + (node.c >= 0 ? 1 : 0);
    const all = graph.nodes.map((node, i) => i);
    if (!all.length) return;
    const first = graph.first >= 0 ? graph.first : all.reduce((a, b) => (told(graph.nodes[b]) > told(graph.nodes[a]) ? b : a));
    choose(first, false);
    if (view.k >= 0.6) return;
    const box = svg.getBoundingClientRect(), node = graph.nodes[first], k = 0.8;
    whole = false;
    view = { k, x: box.width / 2 - node.x * k, y: Math.min(24, 90 - node.y * k) };
    apply();
  }

  function choose(i, move) {
    const node = graph.nodes[i];
    boxes.forEach((box) => box.classList.remove("chosen", "kin"));
    boxes[i].classList.add("chosen");
    chosen = node;
    const related = new Set(node.r || []);
    graph.nodes.forEach((other, j) => { if (j !== i && (other.r || []).some((r) => related.has(r))) boxes[j].classList.add("kin"); });
    aside.replaceChildren();
    add("h3", node.o, aside);
    add("p", node.k, aside);
    add("code", node.t, aside);
    if (node.w) add("p", node.w, aside);
    if (node.s && node.s.length) {
      const list = add("ol", "", aside);
      for (const step of node.s) add("small", data.steps[step][1], add("li", data.steps[step][0], list));
    }
    const other = side === "after" ? "before" : "after";
    for (const key of node.r || []) {
      const place = places[other].get(key);
      if (!place) continue;
      const link = add("button", `${other === "before" ? "← before: " : "→ after: "}${data[other][place.g].nodes[place.i].o} ${key}`, aside);
      link.type = "button";
      link.addEventListener("click", () => { show(other, place.g); choose(place.i, true); });
    }
    if (move) centre(node);
  }

  // One finger or the mouse moves, two fingers zoom; a press that does not move chooses.
  const fingers = new Map();
  let moved = 0;
  svg.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size === 1) moved = 0;
  });
  svg.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const box = svg.getBoundingClientRect(), now = [event.clientX, event.clientY];
    if (fingers.size === 1) {
      moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (moved > 4 && !svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
      whole = false;
      view.x += now[0] - before[0];
      view.y += now[1] - before[1];
      apply();
    } else {
      moved = 99;
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoom(gap(now) / gap(before), (now[0] + other[0]) / 2 - box.left, (now[1] + other[1]) / 2 - box.top);
    }
    fingers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) svg.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  svg.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    if (box && moved <= 4) choose(+box.dataset.i, false);
  });
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  root.querySelector(".tools").addEventListener("click", (event) => {
    const { side: name, zoom: factor } = event.target.dataset;
    if (name) show(name, 0);
    if (factor === "fit") fit();
    else if (factor) zoom(+factor, svg.clientWidth / 2, svg.clientHeight / 2);
  });
  select.addEventListener("change", () => show(side, +select.value));
  search.addEventListener("search", find);
  search.addEventListener("change", find);
  function find() {
    const wanted = search.value.trim().toLowerCase();
    if (!wanted) return;
    const start = chosen ? graph.nodes.indexOf(chosen) + 1 : 0, all = graph.nodes.length;
    for (let step = 0; step < all; step++) {
      const i = (start + step) % all, node = graph.nodes[i];
      if (node.k.toLowerCase().includes(wanted) || node.o.toLowerCase().includes(wanted)) return choose(i, true);
    }
  }
  const legend = root.querySelector(".passes");
  data.passes.forEach((name, i) => {
    const item = add("span", "", legend);
    add("i", "", item).className = "p" + (i % 8);
    item.append(name);
  });
  window.addEventListener("resize", () => { if (whole) fit(); });
  show("after", Math.max(0, data.after.findIndex((one) => one.first >= 0)));
  // `#after=KEY` and `#before=KEY` open the page at a node.
  const wanted = /^#(after|before)=(.+)$/.exec(location.hash);
  const place = wanted && places[wanted[1]].get(decodeURIComponent(wanted[2]));
  if (place) { show(wanted[1], place.g); choose(place.i, true); }
})();
