"use strict";
const read = id => JSON.parse(document.getElementById(id).textContent);
const inEnglish = number => number.toLocaleString("en");

// --- the table of classes: only the rows in view are drawn, so that 17,000 sort at once

const classes = read("classes-data");
const numClasses = classes.keys.length;
const nameOf = id => classes.names[id] || classes.keys[id];
const searched = classes.keys.map((key, id) => `${key}\n${classes.names[id]}`.toLowerCase());
const format = {
  count: inEnglish,
  number: value => value.toLocaleString("en", { maximumSignificantDigits: 4 }),
  share: value => value.toFixed(3),
  small: value => value.toFixed(5),
  difference: value => (value > 0 ? "+" : "") + value.toFixed(3),
};
const table = document.getElementById("classes");
const pane = table.parentElement, head = table.tHead.rows[0], body = table.tBodies[0];
const filterText = document.getElementById("filter"), filterGroup = document.getElementById("group");
const clearSubtree = document.getElementById("clear-subtree"), shown = document.getElementById("shown");
const beyond = 12;  // rows drawn above and below those in view

let sortColumn = 0, descending = true;  // -1: by name
let subtree = null;  // a Set of class ids
let found = [];  // class ids in the order of the table

const order = { };  // a rank for every class id, by column; made at the first sort by it
function ranksBy(column) {
  if (order[column]) return order[column];
  let compare;
  if (column < 0) {
    const collator = new Intl.Collator("en", { numeric: true });
    compare = (a, b) => collator.compare(nameOf(a), nameOf(b)) || a - b;
  } else {
    const values = classes.columns[column].values;
    compare = (a, b) => values[a] - values[b] || b - a;
  }
  const ranks = new Int32Array(numClasses);
  [...classes.keys.keys()].sort(compare).forEach((id, rank) => { ranks[id] = rank; });
  return order[column] = ranks;
}

function find() {
  const text = filterText.value.trim().toLowerCase(), group = filterGroup.value;
  found = [];
  for (let id = 0; id < numClasses; id++) {
    if (searched[id].includes(text)
        && (group === "" || classes.group_of[id] === Number(group))
        && (subtree === null || subtree.has(id))) found.push(id);
  }
  const ranks = ranksBy(sortColumn), sign = descending ? -1 : 1;
  const values = sortColumn < 0 ? null : classes.columns[sortColumn].values;
  const isAbsent = id => values !== null && values[id] === null;
  found.sort((a, b) => isAbsent(a) - isAbsent(b) || sign * (ranks[a] - ranks[b]));  // absent: last
  shown.textContent = `${inEnglish(found.length)} of ${inEnglish(numClasses)} classes`;
  for (const cell of head.cells) {
    if (Number(cell.dataset.column) === sortColumn) {
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    } else cell.removeAttribute("aria-sort");
  }
  pane.scrollTop = 0;
  draw();
}

function spaceOf(rows, height) {
  const line = document.createElement("tr"), cell = line.insertCell();
  line.className = "space";
  line.setAttribute("aria-hidden", "true");
  cell.colSpan = head.cells.length;
  cell.style.height = `${rows * height}px`;
  return line;
}

function lineOf(id) {
  const line = document.createElement("tr"), first = line.insertCell();
  first.textContent = first.title = nameOf(id);
  if (classes.names[id] && classes.names[id] !== classes.keys[id]) {
    first.appendChild(document.createElement("small")).textContent = classes.keys[id];
  }
  for (const column of classes.columns) {
    const cell = line.insertCell(), value = column.values[id];
    cell.textContent = value === null ? "–" : format[column.kind](value);
    if (value === null) continue;
    if (column.kind === "share") cell.className = "bar";
    if (column.kind === "difference" && value) cell.className = value > 0 ? "up" : "down";
    const full = column.kind === "difference" ? 0.25 : 1;  // the value of a full bar
    cell.style.setProperty("--share", `${Math.min(100, 100 * Math.abs(value) / full)}%`);
  }
  return line;
}

function draw() {
  const height = 3 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  const rowsInView = Math.ceil(pane.clientHeight / height);
  const start = Math.max(0, Math.floor(pane.scrollTop / height) - beyond);
  const end = Math.min(found.length, start + rowsInView + 2 * beyond);
  body.replaceChildren(
    spaceOf(start, height), ...found.slice(start, end).map(lineOf), spaceOf(found.length - end, height));
  table.setAttribute("aria-rowcount", found.length + 1);
}

function addHead(title, column) {
  const cell = document.createElement("th"), button = document.createElement("button");
  button.textContent = title;
  button.type = "button";
  cell.scope = "col";
  cell.dataset.column = column;
  button.addEventListener("click", () => {
    descending = column === sortColumn ? !descending : column >= 0;
    sortColumn = column;
    find();
  });
  cell.append(button);
  head.append(cell);
}

let waiting = 0;
function drawSoon() {
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); });
}

addHead("class", -1);
classes.columns.forEach((column, number) => addHead(column.title, number));
table.style.setProperty("--columns", classes.columns.length);
filterText.addEventListener("input", find);
filterGroup.addEventListener("change", find);
clearSubtree.addEventListener("click", () => showSubtree(null));
pane.addEventListener("scroll", drawSoon);
window.addEventListener("resize", drawSoon);
find();

function showSubtree(node) {
  subtree = node === null ? null : new Set(classesBelow(node));
  clearSubtree.hidden = node === null;
  clearSubtree.textContent = node === null ? "" : `in ${labelOf(node)} ✕`;
  find();
  if (node !== null) document.getElementById("table").scrollIntoView();
}

// --- the tree: a branch is made when it is opened first

const treeData = document.getElementById("tree-data");
const tree = treeData ? JSON.parse(treeData.textContent) : { roots: [], nodes: [] };
const labelOf = node => node.class === null ? node.label : nameOf(node.class);

function classesBelow(node, seen = new Set()) {
  if (node.class !== null) seen.add(node.class);
  node.children.forEach(child => classesBelow(tree.nodes[child], seen));
  return seen;
}

function partOf(tag, className, text) {
  const part = document.createElement(tag);
  part.className = className;
  part.textContent = text;
  return part;
}

function branchOf(node) {
  const isLeaf = node.children.length === 0;
  const item = document.createElement("li");
  const line = partOf(isLeaf ? "div" : "summary", isLeaf ? "line leaf" : "line", "");
  const name = partOf("span", "name", labelOf(node));
  name.title = node.label;
  const show = partOf("button", "", inEnglish(node.size));
  show.append(partOf("span", "", node.size === 1 ? " class" : " classes"));
  show.type = "button";
  show.title = "show them in the table";
  show.addEventListener("click", event => {
    event.preventDefault();  // which would open the branch
    event.stopPropagation();
    showSubtree(node);
  });
  const meter = partOf("span", "meter", "");
  meter.style.setProperty("--share", `${100 * (node.mean ?? 0)}%`);
  line.append(name, isLeaf ? partOf("span", "", "") : show, meter,
    partOf("span", "number", node.mean === null ? "–" : node.mean.toFixed(3)));
  if (isLeaf) { item.append(line); return item; }
  const details = document.createElement("details"), children = document.createElement("ul");
  details.append(line, children);
  line.addEventListener("click", () => {
    if (!children.hasChildNodes()) children.append(...node.children.map(child => branchOf(tree.nodes[child])));
  });
  item.append(details);
  return item;
}

if (treeData) {
  const trunk = document.getElementById("tree");
  trunk.append(...tree.roots.map(root => branchOf(tree.nodes[root])));
  if (tree.roots.length === 1) trunk.querySelector("summary").click();
}
