/* Small drawings beside the settings they show: the learning rate over the run, the sizes pictures are trained at. */

(() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const shape = (tag, attributes, ...children) => {
    const node = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const brief = (number) => (number === 0 ? "0" : number < 0.01 ? number.toExponential(1).replace(".0e", "e").replace("e-0", "e-") : String(+number.toPrecision(3)));

  /* Where a drawing stands: under the fields of a section. */
  function place(section, id, caption) {
    const home = document.getElementById(section);
    if (!home) return null;
    let figure = document.getElementById(id);
    if (!figure) {
      figure = loom.element("figure", { id, className: "loom-figure" });
      const fields = home.querySelector(".loom-fields");
      fields.after(figure);
    }
    figure.replaceChildren(loom.element("figcaption", { textContent: caption }));
    return figure;
  }

  function rates(curve) {
    const figure = place("train--Rates", "loom-rate-plot", "Learning rate over the run");
    if (!figure || curve.length < 2) return;
    const W = 600, H = 84, top = Math.max(...curve.map(([, rate]) => rate)) || 1, last = curve.at(-1)[0] || 1;
    const points = curve.map(([step, rate]) => `${((W * step) / last).toFixed(1)},${(H - 2 - ((H - 6) * rate) / top).toFixed(1)}`);
    figure.append(shape("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `From ${brief(curve[0][1])} over ${brief(top)} to ${brief(curve.at(-1)[1])} in ${last + 1} steps` },
      shape("polygon", { points: `0,${H} ${points.join(" ")} ${W},${H}`, class: "loom-figure-area" }),
      shape("polyline", { points: points.join(" "), class: "loom-figure-line" })));
    figure.append(loom.element("p", {}, loom.element("span", { textContent: "step 1" }), loom.element("span", { textContent: `highest ${brief(top)}` }), loom.element("span", { textContent: `step ${last + 1}` })));
  }

  function sizes(buckets) {
    const entries = Object.entries(buckets).sort((a, b) => b[1] - a[1]);
    const figure = place("train--Images", "loom-size-plot", entries.length === 1 ? "All pictures are trained at one size" : `Pictures are trained at ${entries.length} sizes`);
    if (!figure) return;
    if (!entries.length) { figure.remove(); return; }
    const most = entries[0][1];
    const list = loom.element("ul");
    for (const [size, count] of entries.slice(0, 12)) {
      const [width, height] = size.split("x").map(Number), scale = 26 / Math.max(width, height);
      const box = loom.element("i");
      box.style.width = `${width * scale}px`;
      box.style.height = `${height * scale}px`;
      const bar = loom.element("b");
      bar.style.width = `${Math.max(3, (70 * count) / most)}px`;
      list.append(loom.element("li", { title: `${size.replace("x", " × ")}: ${count} shown per epoch` }, loom.element("span", { className: "loom-size" }, box), loom.element("span", { textContent: size.replace("x", "×") }), bar, loom.element("small", { textContent: count })));
    }
    if (entries.length > 12) list.append(loom.element("li", { textContent: `and ${entries.length - 12} more` }));
    figure.append(list);
  }

  loom.listen((kind, form, answer) => {
    if (kind !== "answer" || form.name !== "train") return;
    if (answer.curve) rates(answer.curve);
    sizes(answer.buckets || {});
  });
})();
