//! The growth curves.

use plotters::prelude::*;

use super::{
    Result,
    data::{FanOutRow, Report, ShutdownRow},
};

const SIZE: (u32, u32) = (760, 420);
const COLORS: [RGBColor; 5] = [
    RGBColor(0x1b, 0x6e, 0xc2),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0x4d, 0x9a, 0x22),
    RGBColor(0xa6, 0x3d, 0x5f),
];

/// A curve by its name.
type Curve = (String, Vec<(f64, f64)>);

/// Every picture that there are figures for: its file name, and the SVG.
pub fn all(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let pictures = [
        ("fan-out.svg", "Stop order, handlers of 50 ms", "workers", "ms until all have answered", fan_out(report)),
        ("messages.svg", "One worker message while stopping", "tasks", "ns", messages(report)),
        ("backlog.svg", "A stop request behind a backlog", "messages before it (0 drawn at 1)", "µs", backlog(report)),
        ("shutdown.svg", "A whole shutdown of the word count", "workers", "ms", shutdown(report)),
    ];
    let drawn = pictures.into_iter().filter(|(.., curves)| !curves.is_empty());
    drawn.map(|(file, title, x, y, curves)| Ok((file, draw(title, x, y, &curves)?))).collect()
}

fn fan_out(report: &Report) -> Vec<Curve> {
    let rows = report.fan_out.as_ref().map_or(&[][..], |it| &it.result.rows);
    let curve = |name: &str, time: fn(&FanOutRow) -> f64| {
        let slow = rows.iter().filter(|row| row.handler_ms == 50);
        (name.to_owned(), slow.map(|row| (count(row.workers), time(row) / 1e3)).collect())
    };
    let curves = vec![
        curve("one after the other", |row| row.sequential.median),
        curve("join_all", |row| row.join_all.median),
        curve("winddown", |row| row.ours.median),
        curve("floor: the slowest handler and one round trip", |row| row.floor.median),
    ];
    if rows.is_empty() { Vec::new() } else { curves }
}

fn messages(report: &Report) -> Vec<Curve> {
    let rows = report.messages.as_ref().map_or(&[][..], |it| &it.result.rows);
    let mut curves: Vec<Curve> = Vec::new();
    for row in rows {
        let Some(scan) = &row.scan_ns else { continue };
        let order = row.message.replace("task finished, ", "").replace(" for a scan", "");
        for (name, time) in
            [(format!("scan, {order}"), scan.median), (format!("winddown, {order}"), row.ours_ns.median)]
        {
            let point = (count(row.tasks), time);
            match curves.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => curves.push((name, vec![point])),
            }
        }
    }
    curves
}

fn backlog(report: &Report) -> Vec<Curve> {
    let rows = report.backlog.as_ref().map_or(&[][..], |it| &it.result.rows);
    let shared = rows.iter().map(|row| (count(row.backlog.max(1)), row.shared_channel.median));
    let ours = rows.iter().map(|row| (count(row.backlog.max(1)), row.ours.median));
    if rows.is_empty() {
        return Vec::new();
    }
    vec![("one shared channel".to_owned(), shared.collect()), ("winddown".to_owned(), ours.collect())]
}

fn shutdown(report: &Report) -> Vec<Curve> {
    let rows = report.shutdown.as_ref().map_or(&[][..], |it| &it.result.rows);
    let curve = |name: &str, runtime: &str, time: fn(&ShutdownRow) -> f64| {
        let of_runtime = rows.iter().filter(|row| row.runtime == runtime);
        (name.to_owned(), of_runtime.map(|row| (f64::from(row.workers), time(row) / 1e3)).collect())
    };
    let curves = vec![
        curve("processes: total", "process", |row| row.total.median),
        curve("processes: ours", "process", |row| row.ours.median),
        curve("embedded: total", "embedded", |row| row.total.median),
        curve("embedded: ours", "embedded", |row| row.ours.median),
        curve("embedded: floor", "embedded", |row| row.floor.median),
    ];
    if rows.is_empty() { Vec::new() } else { curves }
}

#[expect(clippy::cast_precision_loss, reason = "of a count far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Both axes are logarithmic.
fn draw(title: &str, x_label: &str, y_label: &str, curves: &[Curve]) -> Result<String> {
    let points = || curves.iter().flat_map(|(_, points)| points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (left, right) = ends(&mut points().map(|(x, _)| *x));
    let (bottom, top) = ends(&mut points().map(|(_, y)| *y));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(
                (left * 0.9..right.max(left * 1.01) * 1.2).log_scale(),
                // Room for the legend.
                (bottom * 0.6..top * 6.0).log_scale(),
            )
            .map_err(|error| error.to_string())?;
        let mesh = &mut chart.configure_mesh();
        mesh.light_line_style(RGBColor(0xee, 0xee, 0xee)).x_desc(x_label).y_desc(y_label);
        mesh.draw().map_err(|error| error.to_string())?;
        for ((name, points), color) in curves.iter().zip(COLORS) {
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
            let drawn = chart.draw_series(line).map_err(|error| error.to_string())?;
            drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
        }
        let legend = &mut chart.configure_series_labels();
        legend
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc));
        legend.draw().map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}
