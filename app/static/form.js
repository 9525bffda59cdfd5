/* Forms in the browser: values by name, conditions, marks on changed fields, sentences under inputs, checks. */

window.loom = (() => {
  const forms = {};
  const listeners = [];
  const PAUSE = 350;

  const element = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const remember = (key, value) => {
    try {
      value === null ? localStorage.removeItem(key) : localStorage.setItem(key, value);
    } catch { /* private windows may refuse */ }
  };
  const recall = (key) => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const browser = (() => {
    const known = recall("loom.browser");
    if (known) return known;
    const fresh = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    remember("loom.browser", fresh);
    return fresh;
  })();

  const block = (form, key) => document.getElementById(`${form.name}-${key}`);
  const control = (node) => node && node.querySelector("input:not([type=hidden]):not(.loom-range), textarea");

  /* Registering a form. */

  function form(spec, server) {
    const known = forms[spec.name] = {
      ...spec, server, problems: [], warnings: [], notes: {}, fixed: {}, patch: null,
      values: Object.fromEntries(spec.names.map((key) => [key, spec.fields[key].default])),
      filled: !spec.checks, checking: false, dirty: false, timer: 0, edits: 0, bare: new Set(spec.names),
      get ready() { return this.filled && !this.bare.size; },
    };
    decorate(known);
  }

  /* Inputs are dressed as they come: those of closed panels arrive after the page can be used (`loom.filling`). */
  function decorate(form) {
    const here = [...form.bare].filter((key) => control(block(form, key)));
    here.forEach((key) => { dress(form, key); form.bare.delete(key); });
    if (here.length) {
      document.querySelectorAll(`[id^="${form.name}--"] .loom-more:not([data-folds])`).forEach((more) => {
        more.dataset.folds = "";
        unfold(more, isOpen(more));
        more.closest(".loom-section").querySelector(".loom-folded").addEventListener("beforematch", () => unfold(more, true));
      });
      here.forEach((key) => speak(form, key));
      refresh(form);
      if (form.filled) obey(form);
      listeners.forEach((listener) => listener("arrived", form));
    }
    if (form.bare.size) requestAnimationFrame(() => decorate(form));
  }

  function dress(form, key) {
    const node = block(form, key), field = form.fields[key], input = control(node);
    if (!input) return;
    const label = node.querySelector("[data-testid=block-info], .label-text");
    const help = node.querySelector(".info-text");
    label.id = `${node.id}--label`;
    if (help) help.id = `${node.id}--help`;
    const group = input.type === "radio" ? node : input;
    if (input.type === "radio") node.setAttribute("role", "radiogroup");
    group.setAttribute("aria-labelledby", label.id);
    if (help) group.setAttribute("aria-describedby", help.id);
    label.title = key;
    if (!label.closest("label")) label.addEventListener("click", () => input.focus());
    if (["int", "float"].includes(field.type) && input.type !== "radio") input.inputMode = "decimal";
    node.append(resetter(form, key));
    if (field.range) strip(form, key, input);
    if (["folder", "file", "config", "state"].includes(field.kind)) browseButton(form, key, input);
  }

  function resetter(form, key) {
    const field = form.fields[key], was = field.default === "" ? "empty" : field.default === true ? "on" : field.default === false ? "off" : field.default;
    const dot = element("button", { type: "button", className: "loom-dot", title: `Changed. Press to go back to the default: ${was}` });
    dot.setAttribute("aria-label", `Back to the default: ${was}`);
    dot.setAttribute("aria-describedby", `${form.name}-${key}--label`);
    dot.addEventListener("click", () => apply(form.name, { [key]: field.default }));
    return dot;
  }

  function strip(form, key, input) {
    const [low, high, step] = form.fields[key].range;
    const range = element("input", { type: "range", className: "loom-range", min: low, max: high, step, tabIndex: -1 });
    range.setAttribute("aria-hidden", "true");
    range.addEventListener("input", () => type(input, String(Number(range.value))));
    const holder = input.closest(".input-container") || input.parentElement;
    holder.append(range);
  }

  function browseButton(form, key, input) {
    const field = form.fields[key];
    const button = element("button", { type: "button", className: "loom-browse", title: `Browse ${field.kind === "folder" ? "folder" : "file"}s on this machine` });
    button.setAttribute("aria-describedby", `${form.name}-${key}--label`);
    button.textContent = "Browse";
    button.addEventListener("click", (event) => {
      event.preventDefault();
      loom.pick({
        kind: field.kind, path: String(form.values[key]), near: String(form.values.output_dir ?? ""), title: field.label, server: form.server, back: button,
        chosen: (path) => apply(form.name, { [key]: path }),
      });
    });
    (input.closest(".input-container") || input.closest(".wrap") || input.parentElement).append(button);
  }

  /* Put text into an input as if it were typed. */
  function type(input, text) {
    const prototype = input instanceof HTMLTextAreaElement ? HTMLTextAreaElement.prototype : HTMLInputElement.prototype;
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(input, text);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /* Values: each input tells its own when it changes, whoever changed it; what follows is drawn once a frame. */

  function value(name, key, now) {
    const form = forms[name];
    now = now ?? "";
    if (!form || form.values[key] === now) return;
    form.values[key] = now;
    if (!form.drawing) form.drawing = requestAnimationFrame(() => { form.drawing = 0; refresh(form); });
    if (form.filled) edited(form);
  }

  const plain = (value) => {
    if (typeof value === "boolean") return value;
    const text = String(value ?? "").trim();
    return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
  };
  const differs = (form, key) => plain(form.values[key]) !== plain(form.fields[key].default);
  const applies = (form, key) => Object.entries(form.fields[key].when).every(([name, wanted]) =>
    !(name in form.fields) || wanted.some((option) => plain(option) === plain(form.values[name])));

  function refresh(form) {
    for (const key of form.names) {
      const node = block(form, key);
      if (!node) continue;
      const changed = differs(form, key), wrong = form.problems.some((problem) => problem.key === key);
      node.classList.toggle("differs", changed);
      node.classList.toggle("is-off", !applies(form, key) && !wrong);
      const range = node.querySelector(".loom-range");
      const number = parseFloat(form.values[key] === "" ? form.fields[key].default : form.values[key]);
      if (range && Number.isFinite(number)) {
        range.value = number;
        range.style.setProperty("--part", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);
      }
    }
    document.querySelectorAll(`[id^="${form.name}--"].loom-section`).forEach((section) => {
      const fields = [...section.querySelectorAll(".loom-field")];
      section.classList.toggle("is-off", fields.every((field) => field.classList.contains("is-off")));
      section.classList.toggle("has-changes", fields.some((field) => field.classList.contains("differs") && !field.classList.contains("is-off")));
      const more = section.querySelector(".loom-more");
      if (more) more.classList.toggle("differs", fields.some((field) => field.closest(".loom-folded") && field.classList.contains("differs")));
    });
    listeners.forEach((listener) => listener("values", form));
  }

  /* Fill inputs with a few values by name. */
  function apply(name, patch) {
    forms[name].patch = { ...forms[name].patch, ...patch };
    document.getElementById(`${name}--apply`).click();
  }
  function taken(name) {
    const form = forms[name], patch = form.patch || {};
    form.patch = null;
    Object.entries(patch).forEach(([key, now]) => value(name, key, now));  // a second patch must not undo the first
    return form.names.map((key) => form.values[key]);
  }

  /* Drafts and checks: one request a moment after the last edit. */

  const storable = (form) => Object.fromEntries(form.names.filter((key) => !form.fields[key].secret).map((key) => [key, form.values[key]]));

  function edited(form) {
    form.edits += 1;
    remember(`loom.pending.${form.name}`, JSON.stringify(storable(form)));
    listeners.forEach((listener) => listener("edited", form));
    if (!form.checks) return;
    clearTimeout(form.timer);
    form.timer = setTimeout(() => check(form), PAUSE);
  }

  async function check(form) {
    if (form.checking) { form.dirty = true; return; }
    form.checking = true;
    form.dirty = false;
    const edits = form.edits;
    try {
      const answer = await form.server.answer({ browser, values: form.values });
      if (form.edits === edits) {
        remember(`loom.pending.${form.name}`, null);
        receive(form, answer);
        if (answer.again) form.timer = setTimeout(() => check(form), 1000 * answer.again);
      }
    } catch (error) {
      listeners.forEach((listener) => listener("lost", form, error));
      form.timer = setTimeout(() => check(form), 3000);
    } finally {
      form.checking = false;
      if (form.dirty) check(form);
    }
  }

  /* The page has been filled: from now on what changes is an edit. */
  function ready(name, list) {
    const form = forms[name];
    if (!form) return setTimeout(() => ready(name, list), 50);
    form.names.forEach((key, index) => { form.values[key] = list[index] ?? ""; });
    form.filled = true;
    refresh(form);
    check(form);
    listeners.forEach((listener) => listener("filled", form));
  }

  /* What the browser tells the server when the page opens. */
  const ticket = (name) => JSON.stringify({ browser, pending: JSON.parse(recall(`loom.pending.${name}`) || "null") });

  /* Answers: sentences under the inputs they are about. */

  function receive(form, answer) {
    form.problems = answer.problems || [];
    form.warnings = answer.warnings || [];
    form.notes = answer.notes || {};
    form.fixed = answer.fixed || {};
    form.names.forEach((key) => speak(form, key));
    refresh(form);
    obey(form);
    listeners.forEach((listener) => listener("answer", form, answer));
    if (answer.jump && form.problems.length) jump(form.name, (form.problems.find((problem) => block(form, problem.key)) || {}).key);
  }

  /* What follows from something else (ticks from the model's file) is shown and not edited. */
  function obey(form) {
    for (const key of form.names) {
      const node = block(form, key), input = control(node);
      if (!input || input.type !== "checkbox") continue;
      input.disabled = key in form.fixed;
      node.classList.toggle("is-fixed", input.disabled);
    }
    const wrong = Object.entries(form.fixed).filter(([key, wanted]) => key in form.values && plain(form.values[key]) !== plain(wanted));
    if (wrong.length) apply(form.name, Object.fromEntries(wrong));
  }

  function speak(form, key) {
    const node = block(form, key), input = control(node);
    if (!node || !input) return;
    const said = [
      ...form.problems.filter((problem) => problem.key === key).map((problem) => ["loom-problem", problem]),
      ...form.warnings.filter((problem) => problem.key === key).map((problem) => ["loom-warning", problem]),
      ...(form.notes[key] ? [["loom-note", { message: form.notes[key] }]] : []),
    ];
    const mark = JSON.stringify(said);
    if (node.dataset.said === mark) return;
    node.dataset.said = mark;
    node.querySelector(".loom-says")?.remove();
    const wrong = said.some(([kind]) => kind === "loom-problem");
    node.classList.toggle("is-wrong", wrong);
    const group = input.type === "radio" ? node : input;
    wrong ? group.setAttribute("aria-invalid", "true") : group.removeAttribute("aria-invalid");
    const help = node.querySelector(".info-text");
    group.setAttribute("aria-describedby", [help?.id, said.length ? `${node.id}--says` : ""].filter(Boolean).join(" "));
    if (!said.length) return;
    const box = element("div", { className: "loom-says", id: `${node.id}--says` });
    box.setAttribute("role", "status");
    for (const [kind, problem] of said) {
      const line = element("p", { className: kind }, element("span", { textContent: sentence(problem.message) }));
      if (problem.fix) {
        const fix = element("button", { type: "button", className: "loom-fix", textContent: problem.fix_label || "Fix it" });
        fix.addEventListener("click", () => apply(form.name, problem.fix));
        line.append(" ", fix);
      }
      box.append(line);
    }
    node.append(box);
  }
  /* A message with a capital, unless it begins with a value such as fp16 or a path. */
  const sentence = (text) => (/^[a-z][a-z']*[ ,;:]/.test(text || "") ? text[0].toUpperCase() + text.slice(1) : text || "");

  /* Go to a field: open its tab and fold, scroll, focus, light it up. */
  function jump(name, key) {
    const form = forms[name], node = key && form && block(form, key);
    if (!node) return;
    reveal(node);
    if (node.classList.contains("is-off")) stay(node);
    requestAnimationFrame(() => {
      node.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      control(node)?.focus({ preventScroll: true });
      node.classList.remove("is-found");
      void node.offsetWidth;
      node.classList.add("is-found");
      setTimeout(() => node.classList.remove("is-found"), 4000);
    });
  }
  /* A field that does not apply is shown while somebody is in it. */
  function stay(node) {
    node.classList.add("is-shown");
    node.addEventListener("focusout", (event) => {
      if (node.contains(event.relatedTarget)) return stay(node);
      node.classList.remove("is-shown");
    }, { once: true });
  }
  function reveal(node) {
    const folded = node.closest(".loom-folded");
    if (folded) unfold(folded.closest(".loom-section").querySelector(".loom-more"), true);
    loom.open?.(node);
  }
  /* Closed folds and tabs stay findable with Ctrl+F where the browser can do that. */
  const closed = "onbeforematch" in document.documentElement ? "until-found" : "";
  function unfold(button, open) {
    const folded = button.closest(".loom-section").querySelector(".loom-folded");
    button.setAttribute("aria-expanded", String(open));
    open ? folded.removeAttribute("hidden") : folded.setAttribute("hidden", closed);
  }
  const isOpen = (button) => button.getAttribute("aria-expanded") === "true";
  document.addEventListener("click", (event) => {
    const more = event.target.closest?.(".loom-more");
    if (more) unfold(more, !isOpen(more));
  });

  return {
    forms, form, value, apply, taken, ready, ticket, receive, jump, reveal, closed, type, element, remember, recall, sentence, browser, differs, applies, block,
    listen: (listener) => listeners.push(listener),
    check: (name) => check(forms[name]),
  };
})();
