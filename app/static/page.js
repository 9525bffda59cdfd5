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
    document.querySelectorAll("[role=tablist][data-tabs]").forEach((list) => {
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
    for (let panel = node.closest(".loom-panel"); panel; panel = panel.parentElement.closest(".loom-panel")) {
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

  /* Find a setting: over labels, help and keys of every form. */

  function search(input) {
    const list = document.getElementById("loom-found");
    let found = [], chosen = 0;
    const words = () => input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rank = (field, key, wanted) => {
      const label = field.label.toLowerCase(), all = `${label} ${key} ${field.words} ${field.help}`.toLowerCase();
      if (!wanted.every((word) => all.includes(word))) return -1;
      const phrase = wanted.join(" ");
      return label === phrase ? 4 : label.startsWith(phrase) ? 3 : wanted.every((word) => label.includes(word)) ? 2 : wanted.every((word) => `${key} ${field.words}`.includes(word)) ? 1.5 : 1;
    };
    const draw = () => {
      const wanted = words();
      found = !wanted.length ? [] : Object.values(forms).flatMap((form) => form.names.map((key) => ({ form, key, field: form.fields[key], rank: rank(form.fields[key], key, wanted) })))
        .filter((hit) => hit.rank > 0).sort((a, b) => b.rank - a.rank).slice(0, 12);
      chosen = 0;
      list.replaceChildren(...(found.length ? found.map(row) : wanted.length ? [element("li", { className: "is-empty", textContent: "No setting matches." })] : []));
      list.hidden = !wanted.length;
      input.setAttribute("aria-expanded", String(!list.hidden));
      mark();
    };
    const row = (hit, index) => {
      const node = loom.block(hit.form, hit.key);
      const item = element("li", { id: `loom-found-${index}` },
        element("b", { textContent: hit.field.label }),
        element("small", { textContent: [...pathOf(node), loom.applies(hit.form, hit.key) ? "" : "not used now"].filter(Boolean).join(" › ") }),
        element("span", { textContent: hit.field.help }));
      item.setAttribute("role", "option");
      item.onmousedown = (event) => { event.preventDefault(); take(index); };
      return item;
    };
    const mark = () => {
      [...list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === chosen)));
      found.length ? input.setAttribute("aria-activedescendant", `loom-found-${chosen}`) : input.removeAttribute("aria-activedescendant");
      list.children[chosen]?.scrollIntoView({ block: "nearest" });
    };
    const take = (index) => {
      const hit = found[index];
      if (!hit) return;
      close();
      loom.jump(hit.form.name, hit.key);
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
    if (kind === "answer") { plan(form, answer); markTabs(); }
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
    const elsewhere = [...form.problems, ...form.warnings].filter((problem) => !loom.block(form, problem.key))
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
      document.getElementById("loom-search")?.focus();
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
