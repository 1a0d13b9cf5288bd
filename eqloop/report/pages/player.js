"use strict";
(() => {
  const player = document.getElementById("player");
  if (!player) return;
  const { examples } = JSON.parse(document.getElementById("frames").textContent);
  const [
    board, at, answer, target, choice, slider, play, status, curve, cursor, range, plane, picture,
    mark, where,
  ] = [
    "board", "at", "answer", "target", "example", "slider", "play", "status", "curve", "cursor",
    "range", "plane", "picture", "mark", "where",
  ].map((id) => document.getElementById(id));
  const [width, height, margin] = [300, 48, 4]; // of the sparkline
  const pause = 400; // milliseconds
  let frames = [];
  let now = 0;
  let timer = null;

  const raised = (text) => [...text].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
  const written = (value) => {
    const [digits, power] = value.toExponential(1).split("e");
    return `${digits}×10${raised(String(Number(power)))}`;
  };
  const along = (index) =>
    margin + ((width - 2 * margin) * index) / Math.max(frames.length - 1, 1);

  // The puzzle comes before the first iteration; a picture that did not change is stored once.
  const unpack = (example) => {
    let svg = example.puzzle_svg;
    const later = example.frames.map((frame) => ({ ...frame, svg: (svg = frame.svg ?? svg) }));
    return [{ iterations: 0, residual: null, right: null, svg: example.puzzle_svg }, ...later];
  };

  const describe = (frame) => {
    const parts = [];
    if (frame.residual != null) parts.push(`residual ${written(frame.residual)}`);
    if (frame.right != null) parts.push(`${frame.right} of ${frame.cells} cells right`);
    return parts.join(", ");
  };

  // The mark is where the orbit was last recorded: after that very iteration, but in long loops.
  const follow = (iterations) => {
    const drawn = examples[choice.selectedIndex].plane;
    if (!drawn) return;
    const last = drawn.iterations.findLastIndex((recorded) => recorded <= iterations);
    const place = drawn.places[last];
    mark.hidden = !place;
    if (place) [mark.style.left, mark.style.top] = place.map((share) => `${100 * share}%`);
    const name = last ? `after iteration ${drawn.iterations[last]}` : "at its start";
    where.textContent = `The ring is the orbit ${name}${place ? "" : ", which is not finite"}`;
  };

  const show = (index) => {
    now = Math.min(Math.max(index, 0), frames.length - 1);
    const frame = frames[now];
    const name = frame.iterations ? `Iteration ${frame.iterations}` : "The puzzle";
    board.innerHTML = frame.svg;
    at.textContent = name;
    slider.value = now;
    status.textContent = [name, describe(frame)].filter(Boolean).join(": ");
    slider.setAttribute("aria-valuetext", status.textContent);
    cursor.setAttribute("d", `M${along(now)} 0V${height}`);
    follow(frame.iterations);
  };

  const plot = () => {
    const known = frames.map((f) => f.residual).filter((r) => r > 0);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const scale = Math.log(high / low) || 1;
    const points = frames.flatMap((f, i) =>
      f.residual > 0
        ? [`${along(i)} ${margin + ((height - 2 * margin) * Math.log(high / f.residual)) / scale}`]
        : [],
    );
    curve.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    range.textContent = points.length
      ? `Residual, on a logarithmic scale from ${written(high)} to ${written(low)}`
      : "No residual was measured";
  };

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    status.setAttribute("aria-live", "polite");
  };

  const start = () => {
    if (now === frames.length - 1) show(0);
    play.textContent = "Pause";
    status.setAttribute("aria-live", "off"); // it would be read out at every step
    timer = setInterval(() => {
      show(now + 1);
      if (now === frames.length - 1) stop();
    }, pause);
  };

  const step = (by) => {
    stop();
    show(now + by);
  };

  const open = () => {
    stop();
    const example = examples[choice.selectedIndex];
    frames = unpack(example);
    slider.max = frames.length - 1;
    answer.hidden = !example.target_svg;
    target.innerHTML = example.target_svg ?? "";
    plane.hidden = !example.plane;
    picture.innerHTML = example.plane?.picture ?? "";
    plot();
    show(0);
  };

  choice.append(...examples.map((example) => new Option(example.title)));
  choice.addEventListener("change", open);
  slider.addEventListener("input", () => step(Number(slider.value) - now));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const plain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
    // The slider and the list have their own use for these keys.
    if (!by || !plain || event.target.closest("input, select")) return;
    event.preventDefault();
    step(by);
  });
  open();
})();
