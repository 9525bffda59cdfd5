/* Run panels in the browser: mends what changed and leaves alone what a person does; curves, sample walls, enlarged pictures. */

window.loomRun = (() => {
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const local = (node) => { node.dataset.local = ""; return node; };

  /* Mending: `from` becomes like `to`. Children with a data-key are moved, not rewritten; data-local is the browser's own. */

  const keyOf = (node) => (node.nodeType === 1 ? node.dataset?.key : undefined);
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function mend(from, to) {
    if (from.nodeType !== 1) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (from.hasAttribute("data-local")) return;
    const own = from.hasAttribute("data-keep") ? ["open"] : from.hasAttribute("data-asking") ? ["data-asking"] : from.tagName === "IMG" ? ["style"] : [];
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !own.includes(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value && !own.includes(name)) from.setAttribute(name, value);
    if (!from.hasAttribute("data-asking")) mendChildren(from, to);
  }

  function mendChildren(from, to) {
    const keyed = new Map();
    for (const child of from.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
    const wanted = new Set([...to.childNodes].map(keyOf).filter(Boolean));
    for (const [key, child] of keyed) if (!wanted.has(key)) { child.remove(); keyed.delete(key); }
    let here = from.firstChild;
    for (const next of [...to.childNodes]) {
      while (here?.nodeType === 1 && here.hasAttribute("data-local") && !next.hasAttribute?.("data-local")) here = here.nextSibling;
      const known = keyed.get(keyOf(next));
      if (known && alike(known, next)) {
        if (known === here) here = here.nextSibling;
        else from.insertBefore(known, here);
        mend(known, next);
      } else if (here && !keyOf(here) && alike(here, next)) {
        mend(here, next);
        here = here.nextSibling;
      } else {
        from.insertBefore(next, here);
      }
    }
    while (here) {
      const after = here.nextSibling;
      if (!(here.nodeType === 1 && here.hasAttribute("data-local") && !keyOf(here))) here.remove();
      here = after;
    }
  }

  /* Scrolling: the end of a log is followed; a log somebody scrolled up in waits until it is back at its end. */

  const END = 8;
  const below = (box) => box.scrollHeight - box.clientHeight - box.scrollTop;
  const toEnd = (box) => { box.scrollTop = box.scrollHeight; };
  const isRead = (part) => [...part.querySelectorAll("[data-scroll]")].some((box) => below(box) > END);
  function holdStrip(strip) {
    return strip.scrollWidth - strip.clientWidth - strip.scrollLeft < END ? () => { strip.scrollLeft = strip.scrollWidth; } : () => {};
  }

  function patch(root, value) {
    if (!value) return;
    if (root.dataset.run !== value.run) {
      root.replaceChildren();
      root.dataset.run = value.run;
    }
    const strips = [...root.querySelectorAll(".loom-strip")].map(holdStrip);
    value.order.forEach((name, at) => {
      let part = [...root.children].find((child) => child.dataset.part === name);
      if (!part) {
        part = make("section", { className: `loom-part loom-part-${name}` });
        part.dataset.part = name;
      }
      if (root.children[at] !== part) root.insertBefore(part, root.children[at] || null);
      if (!(name in value.parts)) return;
      if (isRead(part)) part.waiting = value.parts[name];
      else fill(part, value.parts[name]);
    });
    strips.forEach((hold) => hold());
    foldable(root, value.run);
    if (viewer.open) viewer.refresh();
  }

  function fill(part, html) {
    const fresh = make("section");
    fresh.innerHTML = html;
    part.waiting = undefined;
    mendChildren(part, fresh);
    part.hidden = !part.childNodes.length;
    part.querySelectorAll("[data-scroll]").forEach(toEnd);
    part.querySelectorAll("[data-wall]").forEach(showWall);
    part.querySelectorAll("[data-chart]").forEach((chart) => chart.redraw?.());
  }

  /* On a narrow screen the panel is a card; the rest of it is one press away. */

  function foldable(root, run) {
    if (root.querySelector(":scope > .loom-unfold")) return;
    if (!run || !root.querySelector(".loom-run-head")) return;
    const button = local(make("button", { type: "button", className: "loom-unfold loom-link" }));
    const say = () => {
      const open = !root.hasAttribute("data-card");
      button.textContent = open ? "Show less" : "Loss, samples, files and log";
      button.setAttribute("aria-expanded", String(open));
    };
    button.addEventListener("click", () => { root.toggleAttribute("data-card"); say(); });
    root.toggleAttribute("data-card", true);
    say();
    root.append(button);
  }

  /* Looking: each panel asks by itself, as often as it is told to; on a page that nobody sees it waits. */

  const lives = new Set();
  const LOST = 3, WRITING = ["draft", "prompts", "draw"];
  let chosen = "";

  function choose(run) {
    chosen = run;
    lives.forEach(look);
  }

  const look = (live) => ask(live, () => live.server.look(said(live)));
  const said = (live) => ({ chosen, run: live.run, prints: live.prints, deleted: live.deleted, draft: live.draft });

  /* One question at a time. `unheard` is called when nobody answers. */
  function ask(live, question, unheard = () => {}) {
    live.waiting = (live.waiting || Promise.resolve()).then(async () => {
      clearTimeout(live.timer);
      if (!live.root.isConnected) return lives.delete(live);
      const told = await question().catch(() => null);
      if (told) take(live, told);
      else { live.pace = LOST; unheard(); }
      live.timer = setTimeout(() => { if (!document.hidden) look(live); }, 1000 * live.pace);
    });
    return live.waiting;
  }

  function take(live, told) {
    const seen = live.run;
    if (told.trouble) loom.say(told.trouble, "bad");
    Object.assign(live, { run: told.run, prints: told.prints, pace: told.pace });
    if (seen !== told.run || Object.keys(told.parts).length) patch(live.root, told);
    if (told.chosen) chosen = told.chosen;
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) lives.forEach(look); });

  /* Buttons. One that says what would be lost asks once more. */

  function begin(root, server, trigger, events) {
    const live = { root, server, run: null, prints: {}, pace: 1, deleted: "", draft: null };
    lives.add(live);
    look(live);
    const written = (node) => node.closest("[data-form]")?.querySelector("textarea")?.value || "";
    const emit = async (verb, node) => {
      const on = node.dataset.run || live.run || "", text = written(node);
      if (events.includes(verb)) return trigger(verb, { run: on });
      if (WRITING.includes(verb)) live.draft = [on, text];
      if (verb === "draft") return look(live);
      live.deleted = verb === "delete" ? on : "";
      await ask(live, () => live.server.act({ ...said(live), verb, on, text }), () => loom.say("The program does not answer; nothing was done. Try again when it is back.", "bad"));
      lives.forEach((other) => { if (other !== live) look(other); });
    };
    root.addEventListener("input", (event) => {
      const box = event.target.closest("textarea[data-run]");
      if (!box) return;
      clearTimeout(box.pause);
      box.pause = setTimeout(() => emit("draft", box), 400);
    });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-verb]");
      if (button && root.contains(button)) {
        if (button.dataset.ask && !button.hasAttribute("data-asking")) return askAgain(button);
        button.removeAttribute("data-asking");
        if (button.classList.contains("loom-act")) { button.disabled = true; setTimeout(() => { button.disabled = false; }, 1500); }
        return emit(button.dataset.verb, button);
      }
      const sample = event.target.closest(".loom-sample, .loom-now");
      if (sample) return openSample(sample);
      const result = event.target.closest(".loom-results img");
      if (result) result.closest("li").classList.toggle("is-large");
    });
    root.addEventListener("toggle", (event) => {
      if (event.target.open) event.target.querySelectorAll("[data-scroll]").forEach(toEnd);
    }, true);
    root.addEventListener("scroll", (event) => {
      const part = event.target.closest?.("[data-part]");
      if (part?.waiting !== undefined && !isRead(part)) fill(part, part.waiting);
    }, true);
    root.addEventListener("error", (event) => { if (event.target.tagName === "IMG") event.target.style.visibility = "hidden"; }, true);
    root.addEventListener("load", (event) => { if (event.target.tagName === "IMG") event.target.style.visibility = ""; }, true);
    root.addEventListener("pointermove", hover);
    root.addEventListener("pointerdown", hover);
    root.addEventListener("pointerout", (event) => { if (!event.relatedTarget?.closest?.("[data-chart]")) unhover(root); });
  }

  function askAgain(button) {
    const words = button.textContent;
    button.setAttribute("data-asking", "");
    button.textContent = button.dataset.ask;
    setTimeout(() => {
      if (!button.hasAttribute("data-asking")) return;
      button.removeAttribute("data-asking");
      button.textContent = words;
    }, 5000);
  }

  /* The value of a curve under the pointer. */

  function hover(event) {
    const chart = event.target.closest?.("[data-chart]");
    if (!chart) return;
    const read = () => {
      const svg = chart.querySelector("svg[data-x]"), plot = chart.querySelector(".loom-curve");
      if (!svg) return;
      const box = svg.getBoundingClientRect(), plotBox = plot.getBoundingClientRect();
      const numbers = (name) => svg.dataset[name].split(" ").map(Number);
      const xs = numbers("x"), right = Number(svg.dataset.right);
      const wanted = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * right;
      let at = 0;
      for (let i = 1; i < xs.length; i++) if (Math.abs(xs[i] - wanted) < Math.abs(xs[at] - wanted)) at = i;
      let line = chart.querySelector(".loom-hair"), text = chart.querySelector(".loom-hover");
      if (!line) chart.append(line = local(make("i", { className: "loom-hair" })), text = local(make("span", { className: "loom-hover" })));
      const share = xs[at] / right;
      line.style.left = `${share * 100}%`;
      line.style.height = `${plotBox.height}px`;
      text.textContent = `step ${xs[at]}: ${numbers("bold")[at]} (this step ${numbers("raw")[at]})`;
      text.style.left = `${Math.min(share * box.width, box.width - text.offsetWidth)}px`;
    };
    chart.redraw = read;
    read();
  }

  function unhover(root) {
    root.querySelectorAll(".loom-hair, .loom-hover").forEach((node) => node.remove());
    root.querySelectorAll("[data-chart]").forEach((chart) => { delete chart.redraw; });
  }

  /* The sample wall: the pictures of one step, a slider over the steps, and all of them as a strip below. */

  const cellsOf = (wall) => [...wall.querySelectorAll("button.loom-sample")];
  const numbersOf = (cells, name) => [...new Set(cells.map((cell) => Number(cell.dataset[name])))].sort((a, b) => a - b);

  function showWall(wall) {
    const cells = cellsOf(wall), steps = numbersOf(cells, "step");
    const picked = wall.picked !== undefined && steps.includes(wall.picked) ? wall.picked : steps[steps.length - 1];
    const now = wall.querySelector(".loom-wall-now");
    let pictures = now.querySelector(".loom-wall-pictures");
    if (!pictures) {
      const slider = make("input", { type: "range", min: "0" });
      slider.setAttribute("aria-label", "Step of the samples");
      slider.addEventListener("input", () => pick(wall, numbersOf(cellsOf(wall), "step")[slider.value]));
      const turn = (by) => () => {
        const all = numbersOf(cellsOf(wall), "step");
        slider.value = Number(slider.value) + by;
        pick(wall, all[slider.value]);
      };
      const button = (words, label, by) => {
        const node = make("button", { type: "button", textContent: words, className: "loom-turn" });
        node.setAttribute("aria-label", label);
        node.addEventListener("click", turn(by));
        return node;
      };
      now.append(
        pictures = make("div", { className: "loom-wall-pictures" }),
        make("div", { className: "loom-wall-pick" }, button("‹", "Earlier samples", -1), slider, button("›", "Later samples", 1), make("output")),
      );
    }
    const indices = numbersOf(cells, "index");
    while (pictures.children.length > indices.length) pictures.lastChild.remove();
    indices.forEach((index, at) => {
      const upTo = cells.filter((cell) => Number(cell.dataset.index) === index && Number(cell.dataset.step) <= picked);
      const cell = upTo[upTo.length - 1] || cells.find((other) => Number(other.dataset.index) === index);
      let figure = pictures.children[at];
      if (!figure) {
        figure = make("figure", {}, make("button", { type: "button", className: "loom-now" }, make("img")), make("figcaption"));
        pictures.append(figure);
      }
      const image = figure.querySelector("img"), thumb = cell.querySelector("img");
      if (image.getAttribute("src") !== thumb.getAttribute("src")) image.src = thumb.getAttribute("src");
      image.alt = thumb.alt;
      figure.firstChild.cell = cell;
      figure.lastChild.textContent = cell.dataset.prompt;
      figure.lastChild.title = cell.dataset.prompt;
    });
    const slider = now.querySelector("input");
    slider.max = String(steps.length - 1);
    slider.value = String(steps.indexOf(picked));
    slider.setAttribute("aria-valuetext", `step ${picked}`);
    now.querySelector("output").textContent = `step ${picked}`;
    now.classList.toggle("is-single", steps.length < 2);
    for (const node of wall.querySelectorAll("[data-step], thead th[data-key]")) {
      node.classList.toggle("is-picked", Number(node.dataset.step ?? node.dataset.key) === picked);
    }
  }

  function pick(wall, step) {
    const steps = numbersOf(cellsOf(wall), "step");
    wall.picked = step === steps[steps.length - 1] ? undefined : step;
    showWall(wall);
    const cell = wall.querySelector(`button.loom-sample[data-step="${step}"]`), strip = wall.querySelector(".loom-strip");
    if (cell && strip) strip.scrollLeft += cell.getBoundingClientRect().left - strip.getBoundingClientRect().left - strip.clientWidth / 2 + cell.offsetWidth / 2;
  }

  /* One sample, large; arrow keys go through steps and prompts, and the first sample of the prompt can be laid over it. */

  const viewer = {
    open: false,
    build() {
      const dialog = make("dialog", { className: "loom-viewer" });
      dialog.setAttribute("aria-label", "Sample");
      dialog.innerHTML =
        '<div class="loom-viewer-stage"><img class="loom-viewer-picture" alt=""><img class="loom-viewer-first" alt=""><i class="loom-viewer-edge"></i></div>' +
        '<input type="range" class="loom-viewer-wipe" min="0" max="100" value="50" aria-label="Share of the first sample">' +
        '<div class="loom-viewer-words"><p class="loom-viewer-prompt"></p><p class="loom-viewer-facts"></p></div>' +
        '<div class="loom-viewer-tools"><button type="button" data-go="-1" aria-label="Earlier">‹</button><button type="button" data-go="1" aria-label="Later">›</button>' +
        '<label><input type="checkbox" class="loom-viewer-compare"><span></span></label>' +
        '<a class="loom-viewer-save" download>Download</a><button type="button" data-close>Close</button></div>';
      dialog.addEventListener("click", (event) => {
        if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
        const go = event.target.closest("[data-go]");
        if (go) this.go(Number(go.dataset.go), 0);
      });
      dialog.addEventListener("keydown", (event) => {
        if (event.target.matches("input[type=range]")) return;
        const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (by) { event.preventDefault(); this.go(...by); }
      });
      dialog.addEventListener("close", () => { this.open = false; });
      dialog.querySelector(".loom-viewer-compare").addEventListener("change", () => this.refresh());
      dialog.querySelector(".loom-viewer-wipe").addEventListener("input", () => this.refresh());
      document.body.append(dialog);
      return dialog;
    },
    show(wall, step, index) {
      this.dialog ??= this.build();
      Object.assign(this, { wall, step, index, open: true });
      this.refresh();
      if (!this.dialog.open) this.dialog.showModal();
    },
    cells() { return cellsOf(this.wall).filter((cell) => Number(cell.dataset.index) === this.index); },
    go(steps, prompts) {
      const all = cellsOf(this.wall), indices = numbersOf(all, "index");
      this.index = indices[Math.min(indices.length - 1, Math.max(0, indices.indexOf(this.index) + prompts))];
      const cells = this.cells(), at = cells.findIndex((cell) => Number(cell.dataset.step) === this.step);
      this.step = Number(cells[Math.min(cells.length - 1, Math.max(0, (at < 0 ? cells.length - 1 : at) + steps))].dataset.step);
      this.refresh();
    },
    refresh() {
      if (!this.wall.isConnected) return this.dialog.close();
      const cells = this.cells(), cell = cells.find((one) => Number(one.dataset.step) === this.step) || cells[cells.length - 1];
      if (!cell) return;
      const find = (name) => this.dialog.querySelector(`.loom-viewer-${name}`), first = cells[0];
      const set = (image, source) => { if (image.getAttribute("src") !== source) image.src = source; };
      const compare = find("compare"), can = first !== cell;
      compare.disabled = !can;
      compare.nextSibling.textContent = `Compare with step ${first.dataset.step}`;
      set(find("picture"), cell.dataset.full);
      find("picture").alt = cell.title;
      const on = can && compare.checked, share = find("wipe").value;
      this.dialog.classList.toggle("is-comparing", on);
      if (on) { set(find("first"), first.dataset.full); find("first").alt = first.title; }
      this.dialog.style.setProperty("--wipe", `${share}%`);
      find("prompt").textContent = cell.dataset.prompt;
      find("facts").textContent = `Step ${cell.dataset.step} · prompt ${Number(cell.dataset.index) + 1} · seed ${cell.dataset.seed}`;
      find("save").href = cell.dataset.full;
    },
  };

  function openSample(node) {
    const cell = node.cell || node;
    viewer.show(cell.closest("[data-wall]"), Number(cell.dataset.step), Number(cell.dataset.index));
  }

  return { begin, choose };
})();
