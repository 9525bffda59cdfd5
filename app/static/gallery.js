/* The pictures of a data set with their captions: look, edit, find, tag, remove, undo. */

(() => {
  const { element, remember, recall } = loom, tab = loom.datasets;
  const { ask, many, thumb, part, show, home } = tab;
  const PAGE = 24, CHUNK = 24, PAUSE = 1500, TAGS = 300;
  const SHOW = { all: "All", bare: "Without caption", wrong: "With problems", same: "Duplicates" };
  let set = null, page = 0, chosenTag = "", folder = -1, gone = [], looking = 0;
  const facts = new Map(), twins = new Map(), drafts = new Map(), undo = [];

  /* Opening. */

  const extension = () => part(".ds-extension").value;
  const resolution = () => String(loom.forms.train?.values.max_resolution || "512,512");

  tab.open = async (path, complain) => {
    const answer = await ask("/look", { path, extension: extension() });
    if (!answer.ok) return complain ? complain(answer.say) : loom.say(answer.say, "bad");
    if (set?.path !== answer.path) {
      Object.assign(part(".ds-find"), { value: "" });
      [page, chosenTag, folder] = [0, "", -1];
      undo.length = 0;
      facts.clear();
      part(".ds-copied").replaceChildren();
      input("quick").value = recall(`loom.datasets.tags.${answer.path}`) || "";
    }
    set = answer;
    for (const one of set.pictures) Object.assign(one, drafts.get(one.path));
    gone = answer.removed;
    twins.clear();
    remember("loom.datasets.open", set.path);
    show("gallery");
    part(".ds-head h2").textContent = set.name;
    part(".ds-where").textContent = set.path;
    part(".ds-add").hidden = !set.own;
    draw();
    findTwins();
  };
  const again = () => tab.open(set.path);
  const input = (name) => document.getElementById(`ds-${name}`);
  part(".ds-back").onclick = () => show("overview");
  part(".ds-add").onclick = () => tab.addTo(set.name, set.folders[Math.max(0, folder)]);

  /* Files dropped on the pictures go to the folder that is shown, if it is clear which. */
  tab.receive = async (files) => {
    const learned = set.folders.filter((one) => !one.regularisation), target = set.folders[folder] || (learned.length === 1 || tab.inNamed(files) ? learned[0] : null);
    if (!set.own) return loom.say("Files can be added to data sets of the workspace only. Create one, and drop them there.", "bad");
    if (!target) return loom.say("Choose one of the folders first: it says where they go.", "bad");
    await tab.send(files, target.path, part(".ds-copied"));
    again();
  };

  /* Which pictures are shown. */

  const tags = (text) => (text || "").split(",").map((tag) => tag.trim()).filter(Boolean);
  const problems = (one) => [
    ...(facts.get(one.path)?.problems || []),
    ...(twins.has(one.path) ? [{ kind: "same", text: `The same file as ${twins.get(one.path)}.` }] : []),
    ...(shares(one) ? [{ kind: "shared", text: `Shares its caption file with ${shares(one)}.` }] : []),
    ...(one.note ? [{ kind: "note", text: one.note }] : []),
    ...(one.others.length ? [{ kind: "elsewhere", text: `There is a ${one.others[0]} file beside it; Caption file extension is ${extension()}.` }] : []),
  ];
  const stem = (one) => `${one.folder}/${one.name.replace(/\.[^.]*$/, "")}`;
  let stems = new Map();
  const shares = (one) => (stems.get(stem(one)) || []).find((name) => name !== one.name);
  const wrong = (one) => problems(one).some((item) => item.kind !== "turned" && item.kind !== "note");
  const kinds = { all: () => true, bare: (one) => !one.caption, wrong, same: (one) => twins.has(one.path) };

  function found() {
    const words = part(".ds-find").value.toLowerCase().trim(), kind = kinds[part(".ds-show").value] || kinds.all;
    return set.pictures.filter((one) => (folder < 0 || one.folder === folder) && kind(one)
      && (!chosenTag || tags(one.caption).includes(chosenTag))
      && (!words || `${one.name}\n${one.caption || ""}`.toLowerCase().includes(words)));
  }

  /* Drawing. */

  function draw() {
    stems = new Map();
    for (const one of set.pictures) stems.set(stem(one), [...(stems.get(stem(one)) || []), one.name]);
    heading();
    folders();
    counts();
    grid();
    bin();
  }

  function heading() {
    const bare = set.pictures.filter((one) => !one.caption).length, bad = set.pictures.filter(wrong).length;
    part(".ds-summary").textContent = set.pictures.length
      ? [many(set.pictures.length, "picture"), bare ? `${bare} without caption` : "all with captions", bad ? `${bad} with problems` : "", facts.size < set.pictures.length ? "still looking for problems …" : ""].filter(Boolean).join(" · ")
      : "";
    const choice = part(".ds-show"), now = choice.value || "all";
    const count = { all: set.pictures.length, bare, wrong: bad, same: twins.size };
    choice.replaceChildren(...Object.entries(SHOW).map(([key, words]) => element("option", { value: key, textContent: `${words} (${count[key]})` })));
    choice.value = now;
  }

  function folders() {
    const all = element("button", { type: "button", textContent: `All (${set.pictures.length})` });
    all.setAttribute("aria-pressed", String(folder < 0));
    all.onclick = () => pick(-1);
    const several = set.folders.length > 1;
    part(".ds-folders").replaceChildren(...(several ? [element("li", {}, all)] : []), ...set.folders.map((one, index) => {
      const button = element("button", { type: "button", textContent: `${one.name} (${one.pictures})`, title: one.path });
      button.setAttribute("aria-pressed", String(folder === index || !several));
      button.onclick = () => pick(index);
      return element("li", {}, button, ...(one.repeats === null ? [element("small", { className: "loom-warning", textContent: "no repeats: its name does not begin like 10_" })] : [repeats(one)]));
    }));
  }
  function pick(index) { folder = index; page = 0; folders(); grid(); }

  function repeats(one) {
    const box = element("input", { value: one.repeats, inputMode: "numeric", size: 4, title: "How often each picture is used in an epoch; Enter renames the folder" });
    const label = element("label", {}, "Repeats ", box, element("small", { textContent: ` = ${(one.repeats * one.pictures).toLocaleString()} an epoch` }));
    box.onchange = async () => {
      const answer = await ask("/repeats", { folder: one.path, repeats: box.value });
      if (!answer.ok) { loom.say(answer.say, "bad"); box.value = one.repeats; return; }
      if (answer.path === one.path) return;
      const before = one.repeats;
      await again();
      remembered(`${one.name}: repeats`, async () => { const back = await ask("/repeats", { folder: answer.path, repeats: before }); if (!back.ok) loom.say(back.say, "bad"); again(); });
      loom.say(`The folder is now called ${answer.path.split(/[\\/]/).pop()}.`);
    };
    return label;
  }

  function grid() {
    const all = found(), last = Math.max(0, Math.ceil(all.length / PAGE) - 1);
    page = Math.min(page, last);
    const here = all.slice(page * PAGE, (page + 1) * PAGE);
    part(".ds-grid").replaceChildren(...(here.length ? here.map(card) : [nothing()]));
    const narrowed = all.length < set.pictures.length && set.pictures.length;
    const clear = element("button", { type: "button", textContent: "Show all" });
    clear.onclick = () => { part(".ds-find").value = ""; part(".ds-show").value = "all"; chosenTag = ""; counts(); pick(-1); };
    part(".ds-filtered").replaceChildren(...(narrowed ? [`${all.length} of ${many(set.pictures.length, "picture")}${chosenTag ? ` with “${chosenTag}”` : ""} `, clear] : []));
    pages(last);
    inspect(here);
  }

  function nothing() {
    const text = set.pictures.length ? "No picture matches." : set.own ? "No pictures yet. Drop them here: they are copied into this data set." : "There are no pictures in this folder or in folders like 10_cat inside it.";
    return element("li", { className: "ds-empty", textContent: text });
  }

  function pages(last) {
    const go = (words, to, off) => {
      const button = element("button", { type: "button", textContent: words, disabled: off });
      button.onclick = () => { page = to; grid(); part(".ds-filtered").scrollIntoView({ block: "start" }); };
      return button;
    };
    const choice = element("select", {}, ...Array.from({ length: last + 1 }, (_, index) => element("option", { value: index, textContent: `${index + 1}`, selected: index === page })));
    choice.onchange = () => { page = Number(choice.value); grid(); };
    part(".ds-pages").replaceChildren(...(last ? [go("Prev", page - 1, page === 0), element("label", {}, "Go to page ", choice, ` of ${last + 1}`), go("Next", page + 1, page === last)] : []));
  }

  function card(one) {
    const image = element("img", { src: thumb(one.path, 256, one.changed), alt: one.name, loading: "lazy", decoding: "async" });
    const enlarge = element("button", { type: "button", className: "ds-thumb", title: `Enlarge ${one.name}` }, image);
    enlarge.onclick = () => enlarged(one);
    image.onerror = () => { enlarge.classList.add("is-broken"); enlarge.title = `${one.name} cannot be shown`; };
    const area = element("textarea", { rows: 3, value: one.draft ?? one.caption ?? "", placeholder: placeholder(one), spellcheck: true });
    area.setAttribute("aria-label", `Caption of ${one.name}`);
    area.onfocus = () => { one.visit = {}; };
    area.oninput = () => typed(one, node, area);
    area.onchange = () => autosave() && save(one);
    const away = element("button", { type: "button", className: "ds-remove", textContent: "×", title: `Remove ${one.name} from the data set` });
    away.setAttribute("aria-label", `Remove ${one.name}`);
    away.onclick = () => remove(one);
    const keep = element("button", { type: "button", className: "ds-save", textContent: "Save" });
    keep.onclick = () => save(one);
    const said = element("div", { className: "ds-said" });
    const mark = element("span", { className: "ds-mark" });
    for (const box of [said, mark]) box.setAttribute("role", "status");
    const node = element("li", { className: "ds-card" }, enlarge, element("div", { className: "ds-words" },
      element("div", { className: "ds-line" }, element("b", { textContent: one.name, title: one.path }), element("span", { className: "ds-size" }), away),
      element("div", { className: "ds-area" }, area, mark), element("div", { className: "ds-quick" }), element("div", { className: "ds-after" }, keep, said), element("ul", { className: "ds-problems" })));
    node.dataset.path = one.path;
    one.node = node;
    quick(one);
    told(one);
    if (one.conflict) conflict(one);
    return node;
  }

  function placeholder(one) {
    const concept = set.folders[one.folder]?.concept;
    if (one.caption === "") return "Empty: trained without words";
    return concept ? `No caption file: trained with “${concept}”, the folder's name` : "No caption file: trained without words";
  }

  function told(one) {
    const known = facts.get(one.path), home = set.folders[one.folder], count = home?.repeats;
    const place = set.folders.length > 1 && folder < 0 ? home.name.split(/[\\/]/).pop() : count ? `${count} repeats` : "";
    one.node.querySelector(".ds-size").textContent = [known?.width ? `${known.width} × ${known.height}` : "", place].filter(Boolean).join(" · ");
    one.node.querySelector(".ds-problems").replaceChildren(...problems(one).map((item) => element("li", { className: item.kind === "broken" ? "loom-problem" : item.kind === "turned" ? "loom-note" : "loom-warning", textContent: item.text })));
    one.node.classList.toggle("is-unsaved", one.draft !== undefined);
  }

  /* What takes time is asked for a few pictures at a time: those on the page first, then the others. */

  async function inspect(first) {
    const turn = ++looking, missing = () => [...first, ...set.pictures].filter((one) => !facts.has(one.path)).slice(0, CHUNK);
    for (let some; turn === looking && tab.here() && (some = missing()).length;) {
      const answer = await ask("/facts", { pictures: some.map((one) => one.path), resolution: resolution() });
      if (!answer.ok) return;
      answer.facts.forEach((item) => facts.set(item.path, item));
      some.forEach((one) => { if (!facts.has(one.path)) facts.set(one.path, { problems: [] }); if (one.node?.isConnected) told(one); });
      heading();
    }
  }
  async function findTwins() {
    const path = set.path, answer = await ask("/duplicates", { path });
    if (!answer.ok || set.path !== path) return;
    twins.clear();
    const name = (file) => file.split(/[\\/]/).pop();
    for (const group of answer.groups) for (const one of group) twins.set(one, group.filter((other) => other !== one).map(name).join(", "));
    set.pictures.forEach((one) => one.node?.isConnected && told(one));
    heading();
  }
  document.addEventListener("loom-open", (event) => {
    if (event.target.id === "panel-datasets" && set && home.dataset.view === "gallery") again();  // a captioner may have been at work
  });

  /* Captions: saved on leaving the field, or a moment after the last letter. */

  const autosave = () => part(".ds-autosave").checked;
  function typed(one, node, area) {
    one.draft = area.value;
    drafts.set(one.path, { draft: one.draft, version: one.version });
    say(one, autosave() ? "" : "not saved");
    node.classList.add("is-unsaved");
    marks(one);
    clearTimeout(one.timer);
    if (autosave()) one.timer = setTimeout(() => save(one), PAUSE);
  }
  function say(one, text, kind = "") {
    const problem = kind === "loom-problem";
    one.node?.querySelector(".ds-mark").replaceChildren(problem ? "" : text);
    one.node?.querySelector(".ds-said").replaceChildren(...(problem ? [element("span", { className: kind, textContent: text })] : []));
  }

  async function save(one, version = one.version) {
    clearTimeout(one.timer);
    if (one.draft === undefined) return true;
    if (one.saving) { one.waiting = true; return false; }
    const text = one.draft, before = one.caption;
    one.saving = true;
    const answer = await ask("/caption", { picture: one.path, extension: extension(), text, version });
    one.saving = false;
    if (answer.status === 409) {
      one.conflict = answer;
      conflict(one);
      return false;
    }
    if (!answer.ok) { say(one, answer.say, "loom-problem"); return false; }
    one.conflict = null;
    Object.assign(one, { caption: answer.caption, version: answer.version, note: "" });
    if (one.draft === text) forget(one);
    if (!one.undoing && (before ?? "") !== (answer.caption ?? "")) remembered(`the caption of ${one.name}`, () => rewrite(one.path, before ?? ""), one.visit);
    say(one, "saved");
    if (one.node) { told(one); one.node.querySelector("textarea").placeholder = placeholder(one); }
    heading();
    counts();
    if (one.waiting) { one.waiting = false; return save(one); }
    return true;
  }
  function forget(one) {
    one.draft = undefined;
    drafts.delete(one.path);
  }
  async function rewrite(path, text) {
    const one = set.pictures.find((other) => other.path === path);
    if (!one) return;
    one.draft = text;
    one.undoing = true;
    await save(one);
    one.undoing = false;
    if (!one.node?.isConnected) return;
    one.node.querySelector("textarea").value = one.draft ?? one.caption ?? "";
    marks(one);
  }

  /* Somebody else, or a captioner, has written it meanwhile: ask, and overwrite nothing. */
  function conflict(one) {
    const box = one.node?.querySelector(".ds-said");
    if (!box) return;
    const theirs = element("button", { type: "button", textContent: "Use the one on disk" }), mine = element("button", { type: "button", textContent: "Keep mine" });
    theirs.onclick = () => {
      Object.assign(one, { caption: one.conflict.caption, version: one.conflict.version, conflict: null });
      forget(one);
      one.node.querySelector("textarea").value = one.caption ?? "";
      marks(one); told(one); say(one, ""); counts();
    };
    mine.onclick = () => { const version = one.conflict.version; one.conflict = null; save(one, version); };
    box.replaceChildren(element("p", { className: "loom-problem", textContent: `${one.conflict.say} It now says: “${one.conflict.caption ?? ""}”` }), theirs, " ", mine);
  }

  const unsaved = () => (set ? set.pictures.filter((one) => one.draft !== undefined) : []);
  part(".ds-autosave").onchange = () => {
    home.classList.toggle("is-manual", !autosave());
    remember("loom.datasets.autosave", autosave() ? null : "off");
    if (autosave()) unsaved().forEach((one) => save(one));
  };
  addEventListener("pagehide", () => {
    if (!autosave()) return;
    for (const one of unsaved()) if (!one.conflict) fetch(`${tab.address}/caption`, { method: "POST", keepalive: true, headers: { "content-type": "application/json" }, body: JSON.stringify({ picture: one.path, extension: extension(), text: one.draft, version: one.version }) });
  });
  addEventListener("beforeunload", (event) => { if (!autosave() && unsaved().length) event.preventDefault(); });

  /* Undo: what was saved, removed and renamed, last first. In a field Ctrl+Z is the field's own. */

  function remembered(words, back, visit = null) {
    if (!visit || undo.at(-1)?.visit !== visit) undo.push({ words, back, visit });  // one visit of a field is one step
    undoable();
  }
  function undoable() {
    const button = part(".ds-undo"), last = undo.at(-1);
    button.disabled = !last;
    button.title = last ? `Undo ${last.words} (Ctrl+Z outside of a field)` : "Nothing to undo";
  }
  async function step() {
    const last = undo.pop();
    undoable();
    if (!last) return;
    await last.back();
    loom.say(`Undone: ${last.words}.`);
  }
  part(".ds-undo").onclick = step;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === "z" && tab.here() && home.dataset.view === "gallery" && !event.target.closest?.("input, textarea, dialog")) {
      event.preventDefault();
      step();
    }
  });

  async function remove(one) {
    const answer = await ask("/remove", { picture: one.path, extension: extension() });
    if (!answer.ok) return loom.say(answer.say, "bad");
    clearTimeout(one.timer);
    await again();
    remembered(`removing ${one.name}`, () => restore(answer.path));
    loom.say(`${one.name} is in the bin beside the pictures. Undo brings it back.`);
  }
  async function restore(path) {
    const answer = await ask("/restore", { picture: path });
    if (!answer.ok) loom.say(answer.say, "bad");
    await again();
  }
  function bin() {
    const box = part(".ds-bin");
    box.hidden = !gone.length;
    box.querySelector("summary").textContent = `Removed (${gone.length})`;
    box.querySelector("ul").replaceChildren(...gone.slice(0, 200).map((one) => {
      const back = element("button", { type: "button", textContent: "Bring back" });
      back.onclick = () => restore(one.path);
      return element("li", {}, element("img", { src: thumb(one.path, 64), alt: "", loading: "lazy" }), element("span", { textContent: one.name, title: one.path }), back);
    }));
  }

  /* Tags: counted, found, and put in or taken away by one click. */

  const wanted = () => [...new Set(tags(input("quick").value))];
  function counts() {
    const number = new Map();
    for (const one of set.pictures) for (const tag of new Set(tags(one.caption))) number.set(tag, (number.get(tag) || 0) + 1);
    const sorted = [...number].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
    part(".ds-tags summary").textContent = `Tags (${number.size})`;
    part(".ds-counts").replaceChildren(...sorted.slice(0, TAGS).map(([tag, count]) => {
      const button = element("button", { type: "button", title: `Show the pictures with “${tag}”` }, element("span", { textContent: tag }), element("small", { textContent: count }));
      button.setAttribute("aria-pressed", String(chosenTag === tag));
      button.onclick = () => { chosenTag = chosenTag === tag ? "" : tag; page = 0; counts(); grid(); };
      return element("li", {}, button);
    }), ...(sorted.length > TAGS ? [element("li", { textContent: `and ${sorted.length - TAGS} rarer ones` })] : []));
    return sorted;
  }
  input("quick").oninput = () => {
    remember(`loom.datasets.tags.${set.path}`, input("quick").value || null);
    set.pictures.forEach((one) => one.node?.isConnected && quick(one));
  };
  part(".ds-import").onclick = () => {
    const most = Number(part(".ds-words").value) || 10, before = wanted();
    const fresh = counts().map(([tag]) => tag).filter((tag) => tag.split(/\s+/).length <= most && !before.includes(tag)).slice(0, 200);
    input("quick").value = [...before, ...fresh].join(", ");
    input("quick").oninput();
    loom.say(fresh.length ? `${many(fresh.length, "tag")} added to Quick Tags.` : "No further tags were found in the captions.");
  };
  function quick(one) {
    one.node.querySelector(".ds-quick").replaceChildren(...wanted().map((tag) => {
      const button = element("button", { type: "button", textContent: tag });
      button.onclick = () => toggle(one, tag);
      return button;
    }));
    marks(one);
  }
  function marks(one) {
    const now = tags(one.draft ?? one.caption);
    for (const button of one.node.querySelectorAll(".ds-quick button")) button.setAttribute("aria-pressed", String(now.includes(button.textContent)));
  }
  function toggle(one, tag) {
    const now = tags(one.draft ?? one.caption), area = one.node.querySelector("textarea");
    const next = (now.includes(tag) ? now.filter((other) => other !== tag) : [...now, tag]).join(", ");
    const focused = document.activeElement;
    clearTimeout(one.timer);
    area.focus({ preventScroll: true });
    area.select();
    if (!document.execCommand(next ? "insertText" : "delete", false, next)) area.value = next;  // so that Ctrl+Z in the field knows it
    one.visit = {};
    focused?.focus?.({ preventScroll: true });
    typed(one, one.node, area);
    if (autosave()) save(one);
  }

  /* What the other tabs get from here. */

  part(".ds-copy").onclick = async () => {
    const answer = await ask("/fields", { path: set.path }), box = part(".ds-copied"), form = loom.forms.train;
    if (!answer.ok) return box.replaceChildren(element("p", { className: "loom-problem", textContent: answer.say }));
    const before = Object.fromEntries(Object.keys(answer.values).map((key) => [key, form.values[key]]));
    loom.apply("train", answer.values);
    const go = element("button", { type: "button", textContent: "Go to Folders" }), back = element("button", { type: "button", textContent: "Undo" });
    go.onclick = () => loom.jump("train", "train_data_dir");
    back.onclick = () => { loom.apply("train", before); box.replaceChildren(); };
    box.replaceChildren(element("p", { className: "ds-done", textContent: "Filled in on the LoRA tab:" }),
      element("dl", {}, ...Object.entries(answer.values).flatMap(([key, value]) => [element("dt", { textContent: form.fields[key].label }), element("dd", { textContent: value || "(empty)" })])),
      element("p", { className: "ds-row" }, go, back));
  };
  part(".ds-caption").onclick = () => {
    const learned = set.folders.filter((one) => !one.regularisation), one = set.folders[folder] || learned[0];
    if (!one) return loom.say("There are no pictures here yet.", "bad");
    const path = folder >= 0 || learned.length === 1 ? one.path : one.path.replace(/[\\/][^\\/]*$/, "");
    for (const form of Object.values(loom.forms)) if (form.name.startsWith("caption-") && "image_folder" in form.fields) loom.apply(form.name, { image_folder: path });
    document.getElementById("tab-utilities").click();
    loom.say(`Image folder to caption is ${path}.`);
  };

  /* Large. */

  function enlarged(one) {
    let dialog = document.getElementById("ds-large");
    if (!dialog) {
      dialog = element("dialog", { id: "ds-large", className: "loom-dialog" });
      dialog.innerHTML = '<header><h2></h2><button type="button" class="loom-close" aria-label="Close">×</button></header><img alt=""><p></p>';
      dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest(".loom-close")) dialog.close(); });
      document.body.append(dialog);
    }
    const shown = () => found(), go = (by) => { const all = shown(), next = all[all.indexOf(one) + by]; if (next) { one = next; fill(); } };
    const fill = () => {
      dialog.setAttribute("aria-label", one.name);
      dialog.querySelector("h2").textContent = one.name;
      dialog.querySelector("img").src = `/loom/file?${new URLSearchParams({ path: one.path, v: one.changed })}`;
      dialog.querySelector("img").alt = one.caption || one.name;
      dialog.querySelector("p").textContent = one.draft ?? one.caption ?? "";
    };
    dialog.onkeydown = (event) => { const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]; if (by) { event.preventDefault(); go(by); } };
    fill();
    dialog.showModal();
  }

  /* Finding. */

  let pause = 0;
  part(".ds-find").oninput = () => { clearTimeout(pause); pause = setTimeout(() => { page = 0; grid(); }, 150); };
  part(".ds-show").onchange = () => { page = 0; grid(); };
  part(".ds-extension").onchange = () => {
    if (unsaved().length) {
      part(".ds-extension").value = recall("loom.datasets.extension") || ".txt";
      return loom.say("Save the captions you have edited first; they belong to the other files.", "bad");
    }
    remember("loom.datasets.extension", extension());
    again();
  };
  part(".ds-extension").value = recall("loom.datasets.extension") || ".txt";
  part(".ds-autosave").checked = recall("loom.datasets.autosave") !== "off";
  home.classList.toggle("is-manual", !autosave());

  tab.started();
})();
