"use strict";
(() => {
  const known = JSON.parse(document.getElementById("known").textContent);
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

  const say = (entry) => {
    const parts = [element("pre", entry.left + " = " + entry.code)];
    if (entry.formula) parts.push(element("p", entry.formula, "formula"));
    const shape = [entry.kind, entry.place, entry.shape && "shape " + entry.shape, entry.dtype];
    parts.push(element("p", shape.filter(Boolean).join(" · "), "soft"));
    if (entry.numbers.length) parts.push(element("pre", entry.numbers.join("\n"), "numbers"));
    if (entry.calls > 1) parts.push(element("p", entry.calls + " calls in one line", "soft"));
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
    const entry = known[id];
    say(entry);
    mark(entry.name, lines.find((line) => line.dataset.id === id), entry.takes);
    for (const box of boxes) {
      const here = box.dataset.lines.split(" ").includes(String(entry.line));
      box.classList.toggle("chosen", here);
      box.classList.toggle("near", entry.takes.includes(box.dataset.name));
      if (here && from !== box) show(box);
    }
    picture.classList.add("choosing");
  };

  const given = (box) => {
    const name = box.dataset.name;
    const entry = known["given " + name];
    if (!entry) return;
    say(entry);
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
    const numbers = box.dataset.lines.split(" ");
    const first = numbers[0];
    box.setAttribute("tabindex", "0");
    watch(box, () => {
      if (first === "") return given(box);
      choose(first, box);
      for (const line of lines)  // the update is one box for several
        if (numbers.includes(line.dataset.id)) line.classList.add("chosen");
    });
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
