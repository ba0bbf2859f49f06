"use strict";
// The page asks the server what the network is, makes the form of it, and shows what is answered. All text from the
// server becomes text of the page, never markup.

const SHOWN_ROWS = 100, SHOWN_CLASSES = 10;
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

const counted = (number, thing) => `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
const percent = (p) => p === null ? "?" : p > 0 && p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;

function written(value, digits = 5) {
  if (value === null) return "no number";
  const size = Math.abs(value);
  if (size && (size >= 1e9 || size < 1e-4)) return value.toPrecision(digits);
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1)));
  return value.toLocaleString("en", { maximumFractionDigits: Math.min(decimals, 20) });
}

async function ask(address, type, body) {
  const post = { method: "POST", headers: { "Content-Type": type }, body };
  let response;
  try {
    response = await fetch(address, body === undefined ? {} : post);
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error ?? `the server answered with ${response.status}`);
}

const askRows = async (rows) => (await ask("predict", "application/json", JSON.stringify({ rows }))).json();

// What is asked last is shown, however late the answer to an earlier question comes.
const asked = new WeakMap();
async function show(place, answering) {
  const number = (asked.get(place) ?? 0) + 1;
  asked.set(place, number);
  place.setAttribute("aria-busy", "true");
  let pieces;
  try {
    pieces = await answering();
  } catch (error) {
    pieces = [make("p", { class: "error" }, error.message)];
  }
  if (asked.get(place) !== number) return;
  place.removeAttribute("aria-busy");
  place.replaceChildren(...pieces);
}

const tellWarnings = (warnings) => warnings.map((text) => make("p", { class: "warning" }, text));

function tellClass(model, prediction, probabilities) {
  const all = probabilities.map((p, label) => [String(model.classes[label]), p ?? 0]);
  all.sort((a, b) => b[1] - a[1]);
  const others = all.splice(SHOWN_CLASSES);
  if (others.length) all.push([`${others.length} others`, others.reduce((sum, [, p]) => sum + p, 0)]);
  const bars = make("dl", { class: "bars" });
  all.forEach(([name, p]) => {
    const first = name === String(prediction) ? "first" : "";
    const bar = make("i");
    bar.style.width = `${100 * p}%`;
    bars.append(make("dt", { class: first }, name), make("dd", { class: `track ${first}`, "aria-hidden": "true" }, bar),
      make("dd", { class: first }, percent(p)));
  });
  const what = make("p", { class: "what" }, model.target ?? "class");
  return [what, make("p", { class: "said" }, String(prediction)), bars];
}

function tellQuantity(model, name, value, interval) {
  const { prefix, suffix } = model, money = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const plain = (number) => prefix && number !== null ? number.toLocaleString("en", money) : written(number);
  const unit = (number) => `${prefix}${plain(number)}${suffix.length > 1 ? " " : ""}${suffix}`;
  const pieces = [make("p", { class: "what" }, name), make("p", { class: "said" }, unit(value))];
  if (interval) {
    const [low, high] = interval.map(unit), sure = `${Number((100 * model.interval).toFixed(3))} %`;
    pieces.push(make("div", { class: "interval" },
      make("div", { class: "scale", "aria-hidden": "true" }),
      make("div", { class: "ends" }, make("span", {}, low), make("span", {}, high)),
      make("p", { class: "quiet" }, `With a probability of ${sure}, the right number lies between these.`)));
  }
  return pieces;
}

function tellAnswer(model, answers, row = 0) {
  const prediction = answers.predictions[row], warnings = tellWarnings(answers.warnings);
  if (model.classes) return [...tellClass(model, prediction, answers.probabilities[row]), ...warnings];
  const target = model.target ?? "prediction", interval = answers.intervals?.[row];
  if (model.outputs === 1) return [...tellQuantity(model, target, prediction, interval), ...warnings];
  const tell = (value, k) => tellQuantity(model, `${target} ${k + 1}`, value, interval?.[k]);
  return [...prediction.flatMap(tell), ...warnings];
}

// Of classes the first column is a name, and the others are probabilities; else all are numbers.
function makeTable(model, head, rows) {
  const kind = (k) => ({ class: model.classes && k === 0 ? "text" : "number" });
  const shown = (text, k) => {
    if (model.classes) return k ? Number(text).toFixed(4) : text;
    return isFinite(text) ? written(Number(text)) : text;
  };
  const heads = head.map((text, k) => make("th", { scope: "col", ...kind(k) }, text));
  const lines = rows.map((row, number) => make("tr", {}, make("th", { scope: "row" }, String(number + 1)),
    ...row.map((text, k) => make("td", kind(k), shown(text, k)))));
  return make("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "table of predictions" },
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "row"), ...heads)),
      make("tbody", {}, ...lines)));
}

// Fields in quotes may hold commas, quotes and ends of lines.
function parseCsv(text) {
  const rows = [[]];
  for (const [, quoted, bare, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? bare : quoted.replaceAll('""', '"'));
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  if (rows.at(-1).join("") === "") rows.pop();
  return rows;
}

function tellTable(model, head, rows, link, warnings) {
  const count = counted(rows.length, "row");
  const told = rows.length > SHOWN_ROWS ? `${count}, the first ${SHOWN_ROWS} of which are shown` : count;
  const summary = make("div", { class: "summary" }, make("span", {}, told), ...link);
  return [summary, ...warnings, makeTable(model, head, rows.slice(0, SHOWN_ROWS))];
}

let download;  // the address of the last result, until there is another one
async function predictFile(model, file) {
  if (file.size > model.most_bytes) {
    throw new Error(`${file.name} has ${file.size.toLocaleString("en")} bytes, and one request may have ` +
      `${model.most_bytes.toLocaleString("en")}; send it in parts, or raise --max-bytes`);
  }
  const response = await ask("predict.csv", "text/csv", file);
  const warnings = JSON.parse(decodeURIComponent(response.headers.get("prediction-warnings") ?? "[]"));
  const result = await response.blob();
  if (download) URL.revokeObjectURL(download);
  download = URL.createObjectURL(result);
  const name = `${file.name.replace(/\.[^.]*$/, "")}-predictions.csv`;
  const link = make("a", { class: "button", href: download, download: name }, "Download all");
  const [head, ...rows] = parseCsv(await result.text());
  return tellTable(model, head, rows, [link], tellWarnings(warnings));
}

function makeField(column, number) {
  const id = `field-${number}`, required = column.required ? { required: "" } : {};
  let field;
  if (column.kind === "category") {
    const none = make("option", { value: "" }, column.required ? "choose …" : "missing");
    field = make("select", { id, ...required }, none);
    column.values.forEach((value) => field.append(make("option", { value }, value)));
  } else {
    const mode = column.kind === "number" ? { inputmode: "decimal" } : {};
    field = make("input", { id, type: "text", autocomplete: "off", placeholder: column.hint, ...mode, ...required });
  }
  return [make("label", { for: id }, column.name, field), field];
}

function offerForm(model) {
  const fields = model.columns.map((column, number) => {
    const [label, field] = makeField(column, number);
    byId("fields").append(label);
    return field;
  });
  const place = byId("one").querySelector(".answer");
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const row = Object.fromEntries(model.columns.map((column, k) => [column.name, fields[k].value || null]));
    show(place, async () => tellAnswer(model, await askRows([row])));
  });
  byId("typical").addEventListener("click", () => {
    model.columns.forEach((column, k) => { fields[k].value = column.typical ?? ""; });
    byId("form").requestSubmit();
  });
  byId("one").hidden = false;
}

function offerFile(model) {
  const drop = byId("drop"), input = byId("file"), place = byId("many").querySelector(".answer");
  const take = (file) => file && show(place, () => predictFile(model, file));
  input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
  for (const [type, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
    drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.toggle("over", over); });
  }
  drop.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  // A file that misses the box must not replace the page.
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
  byId("many").hidden = false;
}

function readNumbers(text) {
  return text.trim().split(/\n+/).map((line, k) => line.trim().split(/[\s,;]+/).filter(Boolean).map((word) => {
    if (!isFinite(word)) throw new Error(`line ${k + 1}: ${word} is no number`);
    return Number(word);
  }));
}

function offerNumbers(model) {
  byId("typed-label").textContent =
    `${model.inputs.toLocaleString("en")} numbers, with spaces or commas between them; each line is a row`;
  const place = byId("numbers").querySelector(".answer");
  byId("numbers-form").addEventListener("submit", (event) => {
    event.preventDefault();
    show(place, async () => {
      const answers = await askRows(readNumbers(byId("typed").value));
      if (answers.predictions.length === 1) return tellAnswer(model, answers);
      const rows = answers.predictions.map((prediction, k) =>
        [prediction, ...(answers.probabilities?.[k] ?? [])].flat().map(String));
      const outputs = model.outputs === 1 ? ["prediction"] : rows[0].map((_, k) => `prediction ${k + 1}`);
      const head = model.classes ? ["prediction", ...model.classes.map(String)] : outputs;
      return tellTable(model, head, rows, [], tellWarnings(answers.warnings));
    });
  });
  byId("numbers").hidden = false;
}

// A drawing as the images that networks learn from: cut to the ink and brought to the size that digits have there
// (those of MNIST fill 20 of 28 pixels, with their centre of mass in the middle; smaller images are filled). Each pixel
// is the share of it that is ink.
function readDrawing(board, side) {
  const { width, height } = board, alpha = board.getContext("2d").getImageData(0, 0, width, height).data;
  let [left, top, right, bottom] = [width, height, -1, -1], mass = 0, sumX = 0, sumY = 0;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    if (alpha[4 * (y * width + x) + 3] > 127) {
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
      [mass, sumX, sumY] = [mass + 1, sumX + x + 0.5, sumY + y + 0.5];
    }
  }
  const cells = new Float64Array(side * side);
  if (right < 0) return cells;
  const filled = side < 20, fit = filled ? side : side * 20 / 28, fine = 4;
  const scale = Math.max(right - left + 1, bottom - top + 1, side) / fit;
  const [middleX, middleY] = filled ? [(left + right + 1) / 2, (top + bottom + 1) / 2] : [sumX / mass, sumY / mass];
  for (let y = 0; y < side * fine; y++) for (let x = 0; x < side * fine; x++) {
    const fromX = Math.floor(middleX + ((x + 0.5) / fine - side / 2) * scale);
    const fromY = Math.floor(middleY + ((y + 0.5) / fine - side / 2) * scale);
    if (fromX < 0 || fromY < 0 || fromX >= width || fromY >= height) continue;
    const ink = alpha[4 * (fromY * width + fromX) + 3] / 255;
    cells[Math.floor(y / fine) * side + Math.floor(x / fine)] += ink / fine ** 2;
  }
  return cells;
}

function showSeen(seen, cells, side, ink) {
  seen.width = seen.height = side;
  const [red, green, blue] = ink.match(/\d+/g).map(Number), image = new ImageData(side, side);
  cells.forEach((share, k) => image.data.set([red, green, blue, 255 * share], 4 * k));
  seen.getContext("2d").putImageData(image, 0, 0);
}

function offerBoard(model) {
  const { side, ink } = model.image, board = byId("board");
  const context = board.getContext("2d", { willReadFrequently: true });
  const place = byId("draw").querySelector(".answer"), hint = [...place.childNodes];
  const colour = () => getComputedStyle(board).color;
  const scale = () => board.width / board.clientWidth;
  const at = (event) => [event.offsetX * scale(), event.offsetY * scale()];
  let last = null;
  const line = (to) => {
    context.strokeStyle = colour();
    context.lineWidth = board.width / side * (side < 20 ? 0.9 : 2.2);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...to);
    context.stroke();
    last = to;
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    last = at(event);
    line(last);
  });
  board.addEventListener("pointermove", (event) => { if (last) line(at(event)); });
  const lifted = () => {
    if (!last) return;
    last = null;
    const cells = readDrawing(board, side);
    showSeen(byId("seen"), cells, side, colour());
    const row = [...cells].map((share) => Math.round(share * ink));
    show(place, async () => tellAnswer(model, await askRows([row])));
  };
  board.addEventListener("pointerup", lifted);
  board.addEventListener("pointercancel", lifted);
  byId("clear").addEventListener("click", () => {
    context.clearRect(0, 0, board.width, board.height);
    showSeen(byId("seen"), new Float64Array(side * side), side, colour());
    show(place, async () => hint);
  });
  showSeen(byId("seen"), new Float64Array(side * side), side, colour());
  byId("draw").hidden = false;
}

function tellModel(model) {
  document.title = `${model.name} – predictions`;
  byId("name").textContent = model.name;
  const numbers = model.outputs === 1 ? "a number" : `${model.outputs} numbers`;
  const what = model.classes ? `one of ${model.classes.length} classes` : numbers;
  const of = model.columns.length ? counted(model.columns.length, "column") : counted(model.inputs, "number");
  const target = model.target === null ? what : `${model.target}, ${what},`;
  byId("about").textContent = `A network that predicts ${target} from ${of}. gpu_backprop ${model.version}`;
  const row = model.columns.length
    ? Object.fromEntries(model.columns.map((column) => [column.name, column.typical])) : Array(model.inputs).fill(0);
  const whole = JSON.stringify({ rows: [row] }).replaceAll("'", "'\\''");
  const body = whole.replace(/(,0){20,}/, `,0, … ${model.inputs} numbers`);
  const ask = (address, type, sent) => `curl ${location.origin}/${address} -H "Content-Type: ${type}" ${sent}\n`;
  byId("example").textContent = ask("predict", "application/json", `-d '${body}'`) +
    (model.columns.length ? `\n${ask("predict.csv", "text/csv", "--data-binary @rows.csv")}` : "");
}

async function start() {
  try {
    const model = await (await ask("model")).json();
    tellModel(model);
    if (model.columns.length) {
      offerForm(model);
      offerFile(model);
    } else {
      if (model.image) offerBoard(model);
      offerNumbers(model);
    }
  } catch (error) {
    byId("about").textContent = error.message;
  }
}

start();
