/* A picker for folders and files on the machine that serves the page: a dialog, usable with the keyboard alone. */

(() => {
  const { element, remember, recall } = loom;
  let dialog, request, shown;

  loom.pick = (wanted) => {
    request = wanted;
    dialog = dialog || build();
    dialog.querySelector("h2").textContent = wanted.title;
    dialog.dataset.kind = wanted.kind;
    dialog.showModal();
    const here = /^(~|[a-z]:)?[\\/]|^~$/i.test(wanted.path.trim()) ? wanted.path : "";
    go(here || (wanted.kind === "state" ? "" : recall(`loom.place.${wanted.kind}`) || ""));
  };

  function build() {
    const made = element("dialog", { className: "loom-dialog loom-picker" });
    made.setAttribute("aria-labelledby", "loom-picker-title");
    made.innerHTML = `
      <header><h2 id="loom-picker-title"></h2><button type="button" class="loom-close" aria-label="Close">×</button></header>
      <form method="dialog"><button type="button" class="loom-up" aria-label="Up one folder" title="Up one folder (Backspace)">↑</button>
        <input class="loom-picker-path" aria-label="Path" spellcheck="false" autocomplete="off"></form>
      <nav aria-label="Places"></nav>
      <p class="loom-picker-error" role="status"></p>
      <ul class="loom-entries" aria-label="Folders and files"></ul>
      <footer><span class="loom-contents"></span><button type="button" class="loom-cancel">Cancel</button>
        <button type="button" class="loom-choose">Choose this folder</button></footer>`;
    const part = (selector) => made.querySelector(selector);
    part(".loom-close").onclick = part(".loom-cancel").onclick = () => made.close();
    part(".loom-up").onclick = () => shown?.parent && go(shown.parent);
    part(".loom-choose").onclick = () => choose(shown.path);
    part("form").onsubmit = (event) => { event.preventDefault(); go(part(".loom-picker-path").value, true); };
    made.addEventListener("click", (event) => event.target === made && made.close());
    made.addEventListener("close", () => request.back?.focus());
    part(".loom-entries").addEventListener("keydown", keys);
    document.body.append(made);
    return made;
  }

  function keys(event) {
    const rows = [...dialog.querySelectorAll(".loom-entries button")], here = rows.indexOf(document.activeElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined && rows.length) {
      event.preventDefault();
      rows[Math.max(0, Math.min(rows.length - 1, to))].focus();
    } else if (event.key === "Backspace" && shown.parent) {
      event.preventDefault();
      go(shown.parent);
    }
  }

  async function go(path, typed = false) {
    const wanted = request;
    let answer;
    try {
      answer = await wanted.server.browse({ path, kind: wanted.kind, near: wanted.near || "" });
    } catch {
      answer = { ...(shown || { path, parent: "", places: [], entries: [] }), error: "The program does not answer. Is it still running?" };
    }
    if (wanted !== request) return;
    shown = answer;
    draw(typed);
  }

  function draw(typed) {
    const part = (selector) => dialog.querySelector(selector);
    part(".loom-picker-path").value = shown.path;
    part(".loom-up").disabled = !shown.parent;
    part(".loom-picker-error").textContent = shown.error || "";
    part("nav").replaceChildren(...shown.places.map((place) => {
      const button = element("button", { type: "button", textContent: place.name, title: place.path });
      button.onclick = () => go(place.path);
      return button;
    }));
    const rows = shown.entries.map(row);
    part(".loom-entries").replaceChildren(...(rows.length ? rows : [element("li", { className: "is-empty", textContent: ["folder", "state"].includes(request.kind) ? "No folders in here." : "Nothing to choose in here." })]));
    part(".loom-choose").hidden = request.kind === "config" || (request.kind === "file" && !shown.model) || (request.kind === "state" && !shown.state);
    part(".loom-choose").textContent = request.kind === "state" ? "Choose this state" : "Choose this folder";
    part(".loom-contents").textContent = contents();
    if (!typed) (rows[0]?.firstChild || part(".loom-picker-path")).focus();
  }

  function row(entry) {
    const button = element("button", { type: "button", title: entry.path },
      element("span", { className: entry.file ? "is-file" : "is-folder", textContent: entry.name }));
    if (entry.repeats) button.append(element("small", { textContent: `shown ${parseInt(entry.name, 10)} times per epoch` }));
    if (entry.file) button.append(element("small", { textContent: size(entry.bytes) }));
    if (entry.state) button.append(element("small", { textContent: entry.state }));
    button.onclick = () => (entry.file || entry.state ? choose(entry.path) : go(entry.path));
    return element("li", {}, button);
  }

  const size = (bytes) => (bytes > 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes > 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.max(1, Math.round(bytes / 1e3))} kB`);
  const many = (count, one, several) => `${count} ${count === 1 ? one : several}`;
  const contents = () => [
    shown.repeated ? many(shown.repeated, "folder named like 10_cat", "folders named like 10_cat") : "",
    shown.model ? "a diffusers model" : "",
    shown.images ? many(shown.images, "image", "images") : "",
  ].filter(Boolean).join(", ");

  function choose(path) {
    const slash = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
    remember(`loom.place.${request.kind}`, ["folder", "state"].includes(request.kind) ? path : path.slice(0, slash) || path);
    request.chosen(path);
    dialog.close();
  }
})();
