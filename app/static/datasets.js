/* The Data sets tab: what data sets there are, making one, and sending files into it. */

(() => {
  const { element, remember, recall } = loom, tab = loom.datasets;
  const home = document.getElementById("loom-datasets");
  const part = (selector) => home.querySelector(selector);
  const many = (count, one, several = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : several}`;
  const size = (bytes) => (bytes > 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes > 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);
  const NOISE = /^(\.|thumbs\.db$|desktop\.ini$|__macosx$)/i, NAMED = /^\s*0*([1-9]\d{0,4})_(.+)$/;
  const AT_ONCE = 3, SHOWN = 96;
  let known = { sets: [], largest: {}, endings: { picture: [], caption: [] }, root: "" };
  const staged = { images: [], reg: [] };
  let sending = null;

  /* Asking the server: what it answers, or {say} when it cannot or will not. */
  async function ask(path, body) {
    try {
      const how = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      const answer = await fetch(tab.address + path, how);
      const told = await answer.json();
      return { ...told, ok: answer.ok, status: answer.status };
    } catch {
      return { ok: false, status: 0, say: "The program does not answer. Is it still running?" };
    }
  }
  const thumb = (path, pixels, version = "") => `/loom/thumb?${new URLSearchParams({ path, size: pixels, ...(version && { v: version }) })}`;

  /* The data sets there are. */

  async function list() {
    const answer = await ask("");
    if (!answer.ok) return problem(part(".ds-sets"), answer.say);
    known = answer;
    part(".ds-sets").replaceChildren(...(answer.sets.length ? answer.sets.map(card) : [element("li", { className: "ds-empty", textContent: "No data sets yet. Drop a folder with pictures below: it becomes the first." })]));
    limits();
  }

  function problem(box, text) {
    box.replaceChildren(element("li", { className: "loom-problem", textContent: text }));
  }

  function card(set) {
    const button = element("button", { type: "button", title: set.path },
      element("span", { className: "ds-strip" }, ...set.shown.map((path) => element("img", { src: thumb(path, SHOWN), alt: "", loading: "lazy" }))),
      element("b", { textContent: set.name }),
      element("small", { textContent: [many(set.pictures, "picture"), set.regularisation ? `${set.regularisation} for regularisation` : ""].filter(Boolean).join(", ") }));
    button.onclick = () => tab.open(set.path);
    return element("li", {}, button);
  }

  function limits() {
    const text = `Up to ${size(known.largest.picture)} a picture and ${size(known.largest.zip)} an archive; ${known.endings.picture.join(", ")}.`;
    for (const box of home.querySelectorAll("[data-drop]")) box.title = text;
  }

  /* Fields: what is wrong stands under them. */

  const input = (name) => document.getElementById(`ds-${name}`);
  const told = (name) => input(name).value.trim();
  function complain(field, text) {
    const box = document.getElementById(`ds-${field}-says`);
    if (!box) return false;
    box.textContent = text;
    input(field).closest(".ds-field").classList.toggle("is-wrong", Boolean(text));
    text ? input(field).setAttribute("aria-invalid", "true") : input(field).removeAttribute("aria-invalid");
    if (text) {
      input(field).closest("details")?.setAttribute("open", "");
      input(field).focus();
    }
    return true;
  }
  const content = () => home.querySelectorAll(".ds-create .ds-field, .ds-look .ds-field").forEach((node) => complain(node.dataset.field, ""));

  for (const button of home.querySelectorAll("[data-browse]")) button.onclick = () => {
    const name = button.dataset.browse, label = input(name).closest(".ds-field").querySelector("label").textContent;
    loom.pick({ kind: "folder", path: told(name), title: label, server: loom.forms.train.server, back: button, chosen: (path) => { input(name).value = path; named(path.split(/[\\/]/).pop(), name === "source"); describe(); } });
  };
  part(".ds-look").onsubmit = (event) => {
    event.preventDefault();
    tab.open(told("look"), (say) => complain("look", say));
  };

  /* Files that are dropped or chosen wait here until the data set is made. */

  async function walk(entry, above) {
    if (NOISE.test(entry.name)) return [];
    const path = above ? `${above}/${entry.name}` : entry.name;
    if (entry.isFile) return [{ path, file: await new Promise((done, failed) => entry.file(done, failed)) }];
    const reader = entry.createReader(), found = [];
    for (let some; (some = await new Promise((done, failed) => reader.readEntries(done, failed))).length;) found.push(...some);
    const inside = [];
    for (const one of found) inside.push(...await walk(one, path));
    return inside;
  }
  async function dropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()), plain = [...transfer.files];
    if (entries.some((entry) => entry)) return (await Promise.all(entries.filter(Boolean).map((entry) => walk(entry, "")))).flat();
    return chosen(plain);
  }
  const chosen = (files) => [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }))
    .filter((one) => !one.path.split("/").some((name) => NOISE.test(name)));

  /* A folder that was dropped alone and is named like 10_cat fills in the fields; its name is then up to them. */
  function alone(files) {
    const tops = new Set(files.map((one) => (one.path.includes("/") ? one.path.split("/")[0] : "")));
    const top = [...tops][0];
    if (tops.size !== 1 || !top || files.some((one) => one.path.split("/").slice(1, -1).some((name) => NAMED.test(name)))) return "";
    return top;
  }
  function named(name, fills = true) {
    if (!fills || !name || /^(img|images?|train.*)$/i.test(name)) return;
    const found = name.match(NAMED), words = (found ? found[2] : name).trim();
    if (found) input("repeats").value = found[1];
    if (found && !told("instance")) input("instance").value = words;
    if (!told("name")) input("name").value = words;
  }
  function stage(name, files) {
    const top = alone(files);
    if (top && name === "images") named(top);
    if (top) files = files.map((one) => ({ ...one, path: one.path.slice(top.length + 1) }));
    const paths = new Set(files.map((one) => one.path));
    staged[name] = [...staged[name].filter((one) => !paths.has(one.path)), ...files];
    describe();
  }

  /* Whether all that waits comes in folders named like 10_cat, so that no prompt is needed to name one. */
  const inNamed = (files) => files.every((one) => ending(one) === ".zip" || one.path.split("/").slice(0, -1).some((name) => NAMED.test(name)));
  const allNamed = () => (staged.images.length > 0 || told("source") !== "") && inNamed(pictures(staged.images));

  const ending = (one) => `.${one.path.split(".").pop().toLowerCase()}`;
  const pictures = (files) => files.filter((one) => known.endings.picture.includes(ending(one)));
  function describe() {
    for (const name of ["images", "reg"]) {
      const files = staged[name], box = part(`[data-staged=${name}]`);
      if (!files.length) { box.replaceChildren(); continue; }
      const archives = files.filter((one) => ending(one) === ".zip").length, captions = files.filter((one) => known.endings.caption.includes(ending(one))).length;
      const others = files.length - pictures(files).length - archives - captions;
      const text = [pictures(files).length && many(pictures(files).length, "picture"), captions && many(captions, "caption"), archives && many(archives, "archive"), others && `${many(others, "other file")}, not used`].filter(Boolean).join(", ");
      const clear = element("button", { type: "button", textContent: "Clear" });
      clear.onclick = () => { staged[name] = []; describe(); };
      box.replaceChildren(`${text} (${size(files.reduce((sum, one) => sum + one.file.size, 0))}) `, clear);
    }
    rule();
    const words = [told("instance"), told("class")].filter(Boolean).join(" "), where = [known.root, told("name"), "img"].join("/");
    const kept = new Set(pictures(staged.images).flatMap((one) => one.path.split("/").slice(0, -1).filter((name) => NAMED.test(name)).slice(-1)));
    part(".ds-path").textContent = !told("name") ? "" : [words ? `Goes to ${where}/${told("repeats")}_${words}.` : "", kept.size ? `${many(kept.size, "folder keeps its name", "folders keep their names")} in ${where}: ${[...kept].slice(0, 8).join(", ")}.` : ""].filter(Boolean).join(" ");
  }

  /* Many guides compute the repeats so; what it is worth is said with it. */
  function rule() {
    const count = pictures(staged.images).length, repeats = Number(told("repeats")) || 0, box = part(".ds-rule");
    if (!count || (allNamed() && !told("instance"))) { box.replaceChildren(); return; }
    const thumbed = Math.max(100, Math.round(1500 / count));
    const take = element("button", { type: "button", textContent: `Use ${thumbed}` });
    take.onclick = () => { input("repeats").value = thumbed; describe(); };
    box.replaceChildren(`${many(count, "picture")} × ${repeats} = ${(count * repeats).toLocaleString()} looks in an epoch. A rule of thumb from guides: 1500 / pictures, at least 100, is ${thumbed} here. `, take,
      " It is meant for one or a few epochs; others take 7–15 for comics, 20–30 for portraits, 30–100 for real objects. What counts in the end is pictures × repeats × epochs.");
  }

  for (const node of home.querySelectorAll(".ds-create input:not([type=file])")) node.addEventListener("input", () => { complain(node.id.slice(3), ""); describe(); });
  for (const button of home.querySelectorAll("[data-choose]")) button.onclick = () => input(button.dataset.choose).click();
  for (const node of home.querySelectorAll("input[type=file]")) node.onchange = () => {
    stage(node.closest("[data-drop]").dataset.drop, chosen(node.files));
    node.value = "";
  };

  const here = () => document.body.dataset.tabtop === "panel-datasets";
  const holdsFiles = (event) => here() && event.dataTransfer?.types.includes("Files");
  const over = (on, target) => {
    home.classList.toggle("is-over", on);
    home.querySelectorAll("[data-drop]").forEach((box) => box.classList.toggle("is-over", on && box === (target?.closest?.("[data-drop]") || part("[data-drop=images]"))));
  };
  document.addEventListener("dragover", (event) => { if (holdsFiles(event)) { event.preventDefault(); over(true, event.target); } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    over(false);
    const place = event.target.closest?.("[data-drop]")?.dataset.drop || "images";
    const files = await dropped(event.dataTransfer);
    if (!files.length) return loom.say("Nothing was dropped that could be used.", "bad");
    home.dataset.view === "gallery" ? tab.receive(files) : stage(place, files);
  });

  /* Sending. */

  function send(one, folder, told) {
    return new Promise((done) => {
      const request = new XMLHttpRequest();
      request.open("POST", `${tab.address}/upload?${new URLSearchParams({ folder, name: one.path })}`);
      request.setRequestHeader("content-type", "application/octet-stream");
      request.upload.onprogress = (event) => told(event.loaded);
      request.onload = () => {
        let answer = {};
        try { answer = JSON.parse(request.responseText); } catch { /* a proxy may answer in HTML */ }
        done(answer.results || [{ name: one.path, status: "refused", text: answer.say || `${one.path} was not taken (status ${request.status}).` }]);
      };
      request.onerror = () => done([{ name: one.path, status: "refused", text: `${one.path} did not arrive: the program does not answer.` }]);
      request.onabort = () => done([]);
      sending.requests.add(request);
      request.onloadend = () => sending?.requests.delete(request);
      request.send(one.file);
    });
  }

  async function upload(files, folder, status) {
    const total = files.reduce((sum, one) => sum + one.file.size, 0) || 1, queue = [...files], results = [];
    const bytes = new Map();
    const show = () => progress(status, results.length, [...bytes.values()].reduce((sum, one) => sum + one, 0) / total, `of ${many(files.length, "file")}`);
    show();
    await Promise.all(Array.from({ length: AT_ONCE }, async () => {
      for (let one; !sending.stopped && (one = queue.shift());) {
        results.push(...await send(one, folder, (loaded) => { bytes.set(one.path, Math.min(loaded, one.file.size)); show(); }));
        bytes.set(one.path, one.file.size);
        show();
      }
    }));
    return results;
  }

  async function copy(source, folder, status) {
    const results = [];
    let answer;
    try {
      answer = await fetch(`${tab.address}/copy`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ folder, source }), signal: sending.abort.signal });
      if (!answer.ok) return [{ name: source, status: "refused", text: (await answer.json()).say }];
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "", read; !(read = await reader.read()).done;) {
        const lines = (rest + read.value).split("\n");
        rest = lines.pop();
        for (const line of lines.map((text) => JSON.parse(text))) {
          if (line.result) results.push(line.result);
          progress(status, line.done, line.done / line.total, `of ${many(line.total, "file")} copied`);
        }
      }
    } catch (error) {
      if (!sending.stopped) results.push({ name: source, status: "refused", text: "Copying broke off: the program does not answer. What was copied is whole; do the same again to go on." });
    }
    return results;
  }

  function progress(box, done, share, words) {
    const bar = element("progress", { max: 1, value: share });
    bar.setAttribute("aria-label", "Progress");
    box.replaceChildren(bar, element("span", { textContent: `${done} ${words}` }));
  }

  function summary(box, results) {
    const count = (status) => results.filter((one) => one.status === status).length, refused = results.filter((one) => one.status === "refused");
    const kinds = results.filter((one) => one.status === "added");
    const added = [kinds.filter((one) => known.endings.picture.includes(ending({ path: one.name }))).length, kinds.filter((one) => known.endings.caption.includes(ending({ path: one.name }))).length];
    const text = [added[0] && `${many(added[0], "picture")} added`, added[1] && `${many(added[1], "caption")} added`, count("same") && `${many(count("same"), "file")} there already`, sending?.stopped && "stopped before the end"].filter(Boolean).join(", ");
    box.replaceChildren(
      ...(text ? [element("p", { className: "ds-done", textContent: `${text[0].toUpperCase()}${text.slice(1)}.` })] : []),
      ...(refused.length ? [element("p", { className: "loom-problem", textContent: `${many(refused.length, "file")} not taken:` }), element("ul", {}, ...refused.slice(0, 200).map((one) => element("li", { textContent: one.text })))] : []));
  }

  /* One sending at a time; leaving the page in between asks. */
  async function busy(status, deed) {
    if (sending) return loom.say("Files are being sent already.", "bad");
    const abort = new AbortController();
    sending = { stopped: false, requests: new Set(), abort };
    part(".ds-stop").hidden = false;
    const stay = (event) => event.preventDefault();
    addEventListener("beforeunload", stay);
    try {
      const results = await deed();
      if (results) summary(status, results);
      return results;
    } finally {
      removeEventListener("beforeunload", stay);
      sending = null;
      part(".ds-stop").hidden = true;
    }
  }
  part(".ds-stop").onclick = () => {
    if (!sending) return;
    sending.stopped = true;
    sending.abort.abort();
    sending.requests.forEach((request) => request.abort());
  };
  tab.send = (files, folder, status) => busy(status, () => upload(files, folder, status));

  part(".ds-create").onsubmit = (event) => {
    event.preventDefault();
    content();
    const status = part(".ds-status"), reg = staged.reg.length || told("reg-source");
    busy(status, async () => {
      status.replaceChildren();
      const made = await ask("/create", { name: told("name"), instance: told("instance"), class: told("class"), repeats: told("repeats"), reg_repeats: reg ? told("reg-repeats") : null, named: allNamed() });
      if (!made.ok) {
        const field = (made.field || "").replace("_", "-");
        if (!field || !complain(field, made.say)) status.replaceChildren(element("p", { className: "loom-problem", textContent: made.say }));
        return null;
      }
      const results = [];
      if (staged.images.length) results.push(...await upload(staged.images, made.images, status));
      if (told("source") && !sending.stopped) results.push(...await copy(told("source"), made.images, status));
      if (staged.reg.length && !sending.stopped) results.push(...await upload(staged.reg, made.regularisation, status));
      if (told("reg-source") && !sending.stopped) results.push(...await copy(told("reg-source"), made.regularisation, status));
      if (!sending.stopped) {
        staged.images = [];
        staged.reg = [];
        for (const name of ["name", "instance", "class", "source", "reg-source"]) input(name).value = "";
        describe();
      }
      status.replaceChildren();
      await tab.open(made.path);
      summary(part(".ds-copied"), results);
      return null;
    });
  };

  /* Adding to a data set: the same form, with what is known filled in. */
  tab.addTo = (name, folder) => {
    show("overview");
    input("name").value = name;
    const words = (folder?.concept || "").split(" ");
    input("instance").value = words.length > 1 ? words.slice(0, -1).join(" ") : words[0] || "";
    input("class").value = words.length > 1 ? words[words.length - 1] : "";
    if (folder?.repeats) input("repeats").value = folder.repeats;
    describe();
    part(".ds-create").scrollIntoView({ block: "start" });
    input("instance").focus({ preventScroll: true });
  };

  function show(view) {
    home.dataset.view = view;
    part(".ds-overview").hidden = view !== "overview";
    part(".ds-gallery").hidden = view !== "gallery";
    if (view === "overview") { remember("loom.datasets.open", null); list(); }
  }

  Object.assign(tab, { ask, inNamed, many, size, thumb, show, part, home, here, started: () => {
    const last = recall("loom.datasets.open");
    last ? tab.open(last, () => show("overview")) : show("overview");
    if (last) list();
  } });
})();
