"use strict";
(() => {
  const steps = JSON.parse(document.getElementById("steps").textContent);
  const picture = document.getElementById("picture");
  const detail = document.getElementById("detail");
  const lines = [...document.querySelectorAll("#program li.line")];
  const boxes = [...picture.querySelectorAll("g.box")];
  const arrows = [...picture.querySelectorAll("g.arrow")];
  const values = [...document.querySelectorAll("#program .value")];

  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const say = (step) => {
    const parts = [element("pre", step.left + " = " + step.code)];
    if (step.formula) parts.push(element("p", step.formula, "formula"));
    const shape = [step.kind, step.place, "shape " + step.shape, step.dtype];
    parts.push(element("p", shape.filter(Boolean).join(" · "), "soft"));
    if (step.numbers.length) parts.push(element("pre", step.numbers.join("\n"), "numbers"));
    if (step.calls > 1) parts.push(element("p", step.calls + " calls in one line", "soft"));
    detail.replaceChildren(...parts);
  };

  const mark = (name, chosen, taken) => {
    for (const value of values) value.classList.toggle("same", value.dataset.name === name);
    for (const line of lines) line.classList.toggle("chosen", line === chosen);
    for (const arrow of arrows) {
      arrow.classList.toggle("chosen", arrow.dataset.name === name);
      arrow.classList.toggle("near", taken.includes(arrow.dataset.name));
    }
  };

  // Within the picture alone: the page stays where it is.
  const show = (box) => {
    const frame = picture.getBoundingClientRect();
    const here = box.getBoundingClientRect();
    if (here.left < frame.left || here.right > frame.right)
      picture.scrollLeft += here.left - frame.left - (frame.width - here.width) / 2;
    if (here.top < frame.top || here.bottom > frame.bottom)
      picture.scrollTop += here.top - frame.top - (frame.height - Math.min(here.height, frame.height)) / 2;
  };

  const choose = (id, from) => {
    const step = steps[id];
    say(step);
    mark(step.name, lines.find((line) => line.dataset.id === id), step.takes);
    for (const box of boxes) {
      const here = box.dataset.steps.split(" ").includes(String(step.step));
      box.classList.toggle("chosen", here);
      box.classList.toggle("near", step.takes.includes(box.dataset.name));
      if (here && from !== box) show(box);
    }
    picture.classList.add("choosing");
  };

  const given = (box) => {
    const name = box.dataset.name;
    const step = steps["given " + name];
    if (!step) return;
    say(step);
    mark(name, null, []);
    for (const other of boxes) {
      other.classList.toggle("chosen", other === box);
      other.classList.remove("near");
    }
    picture.classList.add("choosing");
  };

  const watch = (target, act) => {
    for (const event of ["mouseenter", "focus", "click"]) target.addEventListener(event, act);
  };
  for (const line of lines) watch(line, () => choose(line.dataset.id));
  for (const box of boxes) {
    const first = box.dataset.steps.split(" ")[0];
    box.setAttribute("tabindex", "0");
    watch(box, () => (first === "" ? given(box) : choose(first, box)));
  }
  const move = (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way) return;
    const shown = lines.filter((line) => line.offsetParent !== null);
    const next = shown[shown.indexOf(document.activeElement) + way];
    if (next) { event.preventDefault(); next.focus(); }
  };
  document.querySelector("#program ol").addEventListener("keydown", move);
  const toggle = (id, kind) => {
    const box = document.getElementById(id);
    const set = () => document.body.classList.toggle(kind, box.checked);
    box.addEventListener("change", set);
    set();
  };
  toggle("unfold", "unfold");
  toggle("hidden", "extras");
})();
