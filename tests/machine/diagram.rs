//! Draws the machine from `EDGES`: the Markdown page and the SVG. The places of the phases are
//! chosen by hand, for the eye; the edges are not.

use std::fmt::Write as _;

use winddown::{PhaseKind, machine::EDGES};

const WIDTH: i32 = 1110;
const HEIGHT: i32 = 560;
const BOX: (i32, i32) = (190, 44);

pub(crate) fn markdown() -> String {
    let mut page = String::from(
        "<!-- Generated from src/machine/table.rs. Regenerate it with: WINDDOWN_REGENERATE=1 cargo test --test machine generated -->\n\n\
         # Legal transitions\n\n\
         Every step that a shutdown can take. Any other does not compile.\n\n\
         ![The shutdown machine](transitions.svg)\n\n\
         | from | to | when |\n|---|---|---|\n",
    );
    for edge in EDGES {
        let _ = writeln!(page, "| `{}` | `{}` | {} |", edge.from, edge.to, edge.when);
    }
    page.push_str("\nThe same as a Mermaid diagram:\n\n```mermaid\nstateDiagram-v2\n    direction TB\n");
    for kind in PhaseKind::ALL {
        let _ =
            writeln!(page, "    state \"{}\" as {}", kind.name().replace('<', "&lt;").replace('>', "&gt;"), id(*kind));
    }
    let _ = writeln!(page, "    [*] --> {}", id(PhaseKind::Running));
    for edge in EDGES {
        let _ = writeln!(page, "    {} --> {}", id(edge.from), id(edge.to));
    }
    for kind in PhaseKind::ALL.iter().filter(|kind| kind.is_terminal()) {
        let _ = writeln!(page, "    {} --> [*]", id(*kind));
    }
    page.push_str("```\n");
    page
}

fn id(kind: PhaseKind) -> String {
    kind.tag().replace('-', "_")
}

/// The centre of a phase's box. A phase without a place fails the test that draws the machine.
fn place(kind: PhaseKind) -> (i32, i32) {
    let (column, row) = match kind {
        PhaseKind::Running => (2, 0),
        PhaseKind::Recovering => (0, 1),
        PhaseKind::Finishing => (1, 1),
        PhaseKind::CheckpointStopping => (3, 1),
        PhaseKind::StoppingGraceful => (2, 2),
        PhaseKind::StoppingImmediate => (2, 3),
        PhaseKind::StoppingForce => (2, 4),
        PhaseKind::StoppedCompleted => (0, 2),
        PhaseKind::StoppedCheckpointed => (4, 1),
        PhaseKind::StoppedDrained => (4, 2),
        PhaseKind::StoppedHalted => (4, 3),
        PhaseKind::StoppedKilled => (4, 4),
    };
    ([110, 325, 545, 780, 1000][column], 50 + 112 * row)
}

pub(crate) fn svg() -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\" role=\"img\" \
         aria-label=\"The shutdown machine: phases and legal transitions\" font-family=\"ui-monospace, monospace\" font-size=\"14\">\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#64748b\"/></marker></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"10\" fill=\"#f8fafc\"/>\n"
    );
    for (index, edge) in EDGES.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<path d=\"{}\" fill=\"none\" stroke=\"#64748b\" stroke-width=\"1.5\" marker-end=\"url(#arrow)\">\
             <title>{} to {}: {}</title></path>",
            path(index),
            escape(edge.from.name()),
            escape(edge.to.name()),
            escape(edge.when)
        );
    }
    for kind in PhaseKind::ALL {
        let ((x, y), (w, h)) = (place(*kind), BOX);
        let (fill, line) = colours(*kind);
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{w}\" height=\"{h}\" rx=\"8\" fill=\"{fill}\" stroke=\"{line}\" stroke-width=\"1.5\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#0f172a\">{}</text>",
            x - w / 2,
            y - h / 2,
            y + 5,
            escape(kind.name())
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn colours(kind: PhaseKind) -> (&'static str, &'static str) {
    if kind.is_terminal() {
        return ("#dcfce7", "#16a34a");
    }
    match kind {
        PhaseKind::Running => ("#dbeafe", "#2563eb"),
        PhaseKind::StoppingForce => ("#fee2e2", "#dc2626"),
        _ => ("#fef3c7", "#d97706"),
    }
}

/// The line of one edge: straight down to a neighbour, in an arc past the phases between, straight
/// right to the end, or in a curve into the side that it comes from.
fn path(index: usize) -> String {
    let edge = EDGES[index];
    let ((fx, fy), (tx, ty), (w, h)) = (place(edge.from), place(edge.to), BOX);
    let (half_w, half_h) = (w / 2, h / 2);
    if fx == tx && (ty - fy).abs() <= 230 && !between(fx, fy, ty) {
        return format!("M{fx} {} L{tx} {}", fy + half_h, ty - half_h);
    }
    if fx == tx {
        // Nested arcs: those that skip more go further out.
        let bulge = 14 + (ty - fy) / 9;
        let (sx, sy, ey) = (fx + half_w, fy + 8, ty - 16 + (ty - fy) / 50);
        return format!("M{sx} {sy} C{} {sy} {} {ey} {sx} {ey}", sx + bulge, sx + bulge);
    }
    if fy == ty {
        return format!("M{} {fy} L{} {ty}", fx + half_w, tx - half_w);
    }
    if edge.from == PhaseKind::Running {
        let side = if tx > fx { half_w } else { -half_w };
        return format!("M{} {fy} C{tx} {fy} {tx} {fy} {tx} {}", fx + side, ty - half_h);
    }
    // From a phase at the side into that side of the target; the one further out arrives lower.
    let (side, out) = if fx < tx { (-half_w, (tx - fx) / 60) } else { (half_w, 5) };
    let (sx, ey) = (fx + (tx - fx) / 24, ty - 4 + out * 3);
    format!("M{sx} {} C{sx} {ey} {sx} {ey} {} {ey}", fy + half_h, tx + side)
}

fn between(x: i32, from: i32, to: i32) -> bool {
    PhaseKind::ALL.iter().map(|kind| place(*kind)).any(|(px, py)| px == x && py > from && py < to)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
