/* The frame: tabs, search, plan, answers to buttons, keys. */

(() => {
  const { element, remember, recall, forms } = loom;

  /* Tabs: buttons with role=tab; the panel is the element that aria-controls names. Closed panels stay findable with Ctrl+F. */

  const tabs = () => [...document.querySelectorAll("[role=tab][data-panel]")];
  const panelOf = (tab) => document.getElementById(tab.dataset.panel);

  function select(tab, focus = false) {
    const siblings = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
    for (const other of siblings) {
      const on = other === tab, panel = panelOf(other);
      other.setAttribute("aria-selected", String(on));
      other.tabIndex = on ? 0 : -1;
      if (panel) on ? panel.removeAttribute("hidden") : panel.setAttribute("hidden", loom.closed);
    }
    remember(`loom.tab.${tab.closest("[role=tablist]").dataset.tabs}`, tab.dataset.panel);
    document.body.dataset[`tab${tab.closest("[role=tablist]").dataset.tabs}`] = tab.dataset.panel;
    if (focus) tab.focus();
    panelOf(tab)?.dispatchEvent(new CustomEvent("loom-open", { bubbles: true }));
  }

  loom.open = (node) => {
    for (let panel = node.closest(".loom-panel"); panel; panel = panel.parentElement.closest(".loom-panel")) {
      const tab = document.querySelector(`[role=tab][data-panel="${panel.id}"]`);
      if (tab && tab.getAttribute("aria-selected") !== "true") select(tab);
    }
  };

  function begin() {
    if (!tabs().every(panelOf) || !tabs().length) return requestAnimationFrame(begin);
    document.querySelectorAll("[role=tablist][data-tabs]:not([data-begun])").forEach((list) => {
      list.dataset.begun = "";
      const own = [...list.querySelectorAll("[role=tab]")], last = recall(`loom.tab.${list.dataset.tabs}`);
      for (const tab of own) {
        const panel = panelOf(tab);
        panel.setAttribute("role", "tabpanel");
        panel.setAttribute("aria-labelledby", tab.id);
        panel.addEventListener("beforematch", (event) => loom.reveal(event.target));
      }
      select(own.find((tab) => tab.dataset.panel === last) || own[0]);
    });
    document.documentElement.classList.add("loom-ready");
  }

  /* Closed panels are filled once the page can be used, those that were chosen first, one at a time. */

  const filled = new Set();
  const open = (id) => document.getElementById(id.slice(0, id.lastIndexOf("-")))?.hasAttribute("hidden") === false;
  loom.filling = (ids) => {
    const rest = ids.filter((id) => !filled.has(id)), next = rest.find(open) || rest[0];
    filled.add(next);
    if (next) filling(next, rest.length > 1, 0);
    return ids.map((id) => (id === next ? { __type__: "update", visible: true } : { __type__: "update" }));
  };
  function filling(id, more, tries) {
    if (!document.getElementById(id) && tries < 100) return requestAnimationFrame(() => filling(id, more, tries + 1));
    begin();
    if (more) fill();
    else document.documentElement.classList.add("loom-whole");
  }
  const fill = () => (window.requestIdleCallback || setTimeout)(() => document.getElementById("loom-fill").click());

  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("[role=tab][data-panel]");
    if (tab) select(tab);
  });
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab][data-panel]");
    if (!tab) return;
    const all = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")], here = all.indexOf(tab);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(all[(to + all.length) % all.length], true);
  });

  const pathOf = (node) => {
    const names = [];
    for (let panel = node?.closest(".loom-panel"); panel; panel = panel.parentElement.closest(".loom-panel")) {
      const tab = document.querySelector(`[role=tab][data-panel="${panel.id}"]`);
      if (tab) names.unshift(tab.dataset.name);
    }
    return names;
  };

  function markTabs() {
    for (const tab of tabs()) {
      const count = [...(panelOf(tab)?.querySelectorAll(".loom-field.is-wrong") || [])].length;
      const mark = tab.querySelector(".loom-count");
      if (!count) { mark?.remove(); continue; }
      const text = `${count}`;
      if (mark) mark.textContent = text;
      else tab.append(element("span", { className: "loom-count", textContent: text, title: "Problems on this tab" }));
    }
  }

  /* Find a setting: over labels, choices, keys and help of every form, and over the names of tabs. */

  /* Spellings that mean the same become one: colour and color, regularize and regularise, U-Net and Unet. */
  const spelt = (text) => text.toLowerCase().replace(/['’“”"-]/g, "").replaceAll("z", "s").replaceAll("our", "or");
  const joined = (text) => text.replace(/[\s_]+/g, "");

  const settingsFound = () => Object.values(forms).flatMap((form) => form.names.map((key) => {
    const field = form.fields[key], label = spelt(field.label), own = spelt(`${key} ${field.words}`);
    return {
      label, own, choices: field.choices.map(spelt), text: `${label} ${joined(label)} ${own} ${spelt(`${field.choices.join(" ")} ${field.help}`)}`,
      later: (loom.applies(form, key) ? 0 : 4) + (form.name === "train" ? 0 : 2) + (field.advanced ? 1 : 0),
      name: field.label, help: field.help, path: () => [...pathOf(loom.block(form, key)), loom.applies(form, key) ? "" : "not used now"], go: () => loom.jump(form.name, key),
    };
  }));
  const tabsFound = () => tabs().filter(panelOf).map((tab) => {
    const label = spelt(tab.dataset.name);
    return { label, own: "", choices: [], text: label, later: 3, name: tab.dataset.name, help: "", path: () => [...pathOf(panelOf(tab)).slice(0, -1), "a tab"], go: () => { loom.open(panelOf(tab)); tab.focus(); } };
  });

  /* How well an entry fits: the number of words found, then where they stand. */
  function fit(entry, words) {
    const phrase = words.join(" "), found = words.filter((word) => entry.text.includes(word));
    const inAll = (text) => words.every((word) => text.includes(word));
    const place = entry.label === phrase ? 5 : entry.choices.includes(phrase) ? 4 : ` ${entry.label}`.includes(` ${phrase}`) ? 3 : inAll(entry.label) ? 2 : inAll(`${entry.label} ${entry.own}`) ? 1 : 0;
    return { entry, words: found.length, place };
  }

  function search(input) {
    const list = document.getElementById("loom-found");
    let found = [], chosen = 0;
    const wanted = () => spelt(input.value).split(/[\s>…]+/).filter(Boolean);
    const draw = () => {
      const words = wanted();
      const fits = !words.length ? [] : [...settingsFound(), ...tabsFound()].map((entry) => fit(entry, words));
      const most = Math.max(0, ...fits.map((hit) => hit.words));
      const enough = 2 * most >= words.length ? most : Infinity;
      found = !most ? [] : fits.filter((hit) => hit.words >= enough).sort((a, b) => b.place - a.place || a.entry.later - b.entry.later).slice(0, 12).map((hit) => hit.entry);
      chosen = 0;
      const rest = !words.length ? "" : !found.length ? "No setting matches." : most < words.length ? "No setting has all of these words." : "";
      list.replaceChildren(...found.map(row), ...(rest ? [element("li", { className: "is-empty", textContent: rest })] : []));
      list.hidden = !words.length;
      input.setAttribute("aria-expanded", String(!list.hidden));
      mark();
    };
    const row = (entry, index) => {
      const item = element("li", { id: `loom-found-${index}` },
        element("b", { textContent: entry.name }),
        element("small", { textContent: entry.path().filter(Boolean).join(" › ") }),
        element("span", { textContent: entry.help }));
      item.setAttribute("role", "option");
      item.onmousedown = (event) => { event.preventDefault(); take(index); };
      return item;
    };
    const mark = () => {
      list.querySelectorAll("[role=option]").forEach((item, index) => item.setAttribute("aria-selected", String(index === chosen)));
      found.length ? input.setAttribute("aria-activedescendant", `loom-found-${chosen}`) : input.removeAttribute("aria-activedescendant");
      list.children[chosen]?.scrollIntoView({ block: "nearest" });
    };
    const take = (index) => {
      const entry = found[index];
      if (!entry) return;
      close();
      entry.go();
    };
    const close = () => { input.value = ""; draw(); };
    input.addEventListener("input", draw);
    input.addEventListener("focus", draw);
    input.addEventListener("blur", () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); });
    input.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        chosen = (chosen + (event.key === "ArrowDown" ? 1 : -1) + found.length) % Math.max(found.length, 1);
        mark();
      } else if (event.key === "Enter") { event.preventDefault(); take(chosen); }
      else if (event.key === "Escape") { close(); input.blur(); }
    });
  }

  /* The plan, and the state of the form in words. */

  loom.listen((kind, form, answer) => {
    if (form.name !== "train") return;
    if (kind === "filled") fill();
    if (kind === "answer") { form.answer = answer; plan(form, answer); markTabs(); }
    if (kind === "arrived" && form.answer) { plan(form, form.answer); markTabs(); }
    if (kind === "values") {
      const count = form.names.filter((key) => loom.differs(form, key) && loom.applies(form, key)).length;
      const label = document.querySelector("#loom-only-changed + span");
      if (label) label.textContent = `Only changed (${count})`;
    }
    if (kind === "lost") lost();
    if (kind === "edited") document.getElementById("loom-plan")?.classList.add("is-stale");
  });

  function lost() {
    const box = document.getElementById("loom-plan");
    if (box) box.replaceChildren(element("p", { className: "loom-problem", textContent: "The program does not answer. Your edits are kept in this browser; it asks again by itself." }));
  }

  function plan(form, answer) {
    const box = document.getElementById("loom-plan");
    if (!box) return;
    box.classList.remove("is-stale");
    const count = form.problems.length;
    const state = count
      ? element("button", { type: "button", className: "loom-problems", textContent: count === 1 ? "1 thing to mend before it can start" : `${count} things to mend before it can start` })
      : element("p", { className: "loom-fine", textContent: answer.ready || "Ready to start." });
    if (count) state.onclick = () => loom.jump(form.name, (form.problems.find((problem) => loom.block(form, problem.key)) || {}).key);
    const elsewhere = [...form.problems, ...form.warnings].filter((problem) => !form.names.includes(problem.key))
      .map((problem) => element("p", { className: "loom-problem", textContent: loom.sentence(problem.message) }));
    box.replaceChildren(
      element("p", { className: "loom-sentence", textContent: answer.sentence || "The steps follow once there are images." }),
      ...(answer.details || []).map((text) => element("p", { className: "loom-detail", textContent: text })),
      ...elsewhere, state);
    for (const [section, drawing] of Object.entries(answer.drawings || {})) draw(section, drawing);
  }

  /* Small drawings under the fields they show: the rate over the run, the sizes of the pictures. */
  function draw(section, drawing) {
    const home = document.getElementById(section);
    if (!home || home.dataset.drawing === drawing) return;
    home.dataset.drawing = drawing;
    let figure = home.querySelector(".loom-drawing");
    if (!figure) {
      figure = element("div", { className: "loom-drawing" });
      home.querySelector(".loom-fields").after(figure);
    }
    figure.innerHTML = drawing;
  }

  /* Answers to buttons. */

  loom.answer = (answer) => {
    if (!answer) return;
    if (answer.form && answer.problems) loom.receive(forms[answer.form], answer);
    if (answer.say) say(answer.say, answer.tone);
    if (answer.started) loom.check(answer.started);
    if (answer.run) loomRun.choose(answer.run);
    if (answer.copy) copy(answer.copy);
    if (answer.open) loom.popover(answer.open, "loom-save");
    if (answer.show) { const tab = document.querySelector(`[data-panel="${answer.show}"]`); if (tab) select(tab); }
    if (answer.close) document.getElementById(answer.close)?.classList.remove("is-open");
  };

  function say(text, tone = "") {
    let box = document.getElementById("loom-said");
    if (!box) {
      box = element("div", { id: "loom-said" });
      box.setAttribute("role", "status");
      box.setAttribute("aria-live", "polite");
      document.body.append(box);
    }
    const line = element("p", { className: tone, textContent: text });
    box.append(line);
    setTimeout(() => line.remove(), tone === "bad" ? 12000 : 6000);
  }
  loom.say = say;

  function copy(text) {
    const dialog = document.getElementById("loom-command") || commandDialog();
    dialog.querySelector("pre").textContent = text;
    dialog.showModal();
    const done = () => { dialog.querySelector(".loom-copied").textContent = "Copied."; };
    dialog.querySelector(".loom-copied").textContent = "";
    navigator.clipboard?.writeText(text).then(done, () => {});
    getSelection().selectAllChildren(dialog.querySelector("pre"));
  }

  function commandDialog() {
    const dialog = element("dialog", { id: "loom-command", className: "loom-dialog" });
    dialog.setAttribute("aria-label", "The command that does the same without the page");
    dialog.innerHTML = `<header><h2>The same without the page</h2><button type="button" class="loom-close" aria-label="Close">×</button></header>
      <p>Run this in the program's folder. It names only what differs from the defaults.</p><pre tabindex="0"></pre>
      <footer><span class="loom-copied" role="status"></span><button type="button" class="loom-choose">Close</button></footer>`;
    dialog.querySelectorAll("button").forEach((button) => { button.onclick = () => dialog.close(); });
    document.body.append(dialog);
    return dialog;
  }

  /* Keys. */

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) {
      const start = [...document.querySelectorAll(".loom-start, .loom-panel .loom-buttons .loom-main")].find((button) => button.checkVisibility ? button.checkVisibility() : button.offsetParent);
      if (start) { event.preventDefault(); start.click(); }
    } else if (event.key === "/" && !event.target.closest?.("input, textarea, [contenteditable]") && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      const input = document.getElementById("loom-search");
      if (input) { loom.open(input); input.focus(); }
    } else if (event.key === "Escape") {
      document.querySelectorAll(".loom-popover.is-open").forEach((popover) => popover.classList.remove("is-open"));
    }
  });

  /* Small switches. */

  function switches() {
    const only = document.getElementById("loom-only-changed"), help = document.getElementById("loom-help");
    const input = document.getElementById("loom-search");
    const preset = document.querySelector("#loom-preset input");
    if (!only || !help || !input || !preset) return requestAnimationFrame(switches);
    search(input);
    preset.placeholder = "Choose a preset";
    preset.title = "A preset, or the path of a Kohya settings file (.json, .toml) on this machine";
    help.checked = recall("loom.help") !== "off";
    const apply = () => {
      document.body.classList.toggle("loom-only-changed", only.checked);
      document.body.classList.toggle("loom-no-help", !help.checked);
      remember("loom.help", help.checked ? "on" : "off");
    };
    only.onchange = help.onchange = apply;
    apply();
  }

  begin();
  switches();
})();

/* The report of a load, popovers. */

(() => {
  loom.popover = (id, by) => {
    const popover = document.getElementById(id);
    const open = popover.classList.toggle("is-open");
    if (open) { popover.dataset.by = by || ""; popover.querySelector("input, textarea")?.focus(); }
  };

  document.addEventListener("click", (event) => {
    const press = event.target.closest?.("[data-press]");
    if (press) document.getElementById(press.dataset.press).click();
    if (event.target.closest?.("[data-dismiss]")) event.target.closest(".loom-report").remove();
    for (const popover of document.querySelectorAll(".loom-popover.is-open")) {
      if (!popover.contains(event.target) && !event.target.closest?.(`#${popover.dataset.by || "none"}`)) popover.classList.remove("is-open");
    }
  });
})();
