//! The plot, an SVG with one panel for each axis.

use std::path::Path;

use plotters::prelude::*;
use session_benches::Error;

/// The size of the picture in pixels.
const SIZE: (u32, u32) = (1_000, 760);
/// The font of all text.
const FONT: &str = "sans-serif";

/// The lines over one axis. Both scales are logarithmic.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// The points of one row.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws the panels in two columns.
pub(crate) fn write(path: &Path, panels: &[Panel]) -> Result<(), Error> {
    let mut svg = String::new();
    draw(&mut svg, panels)?;
    let file = |error| format!("cannot write the plot to {}: {error}", path.display());
    Ok(std::fs::write(path, svg).map_err(file)?)
}

fn draw(svg: &mut String, panels: &[Panel]) -> Result<(), Error> {
    let picture = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    picture.fill(&WHITE)?;
    // A name has the same color in every panel.
    let mut names: Vec<_> = panels.iter().flat_map(|it| &it.lines).map(|it| it.name).collect();
    names.sort_unstable();
    names.dedup();
    for (area, panel) in picture.split_evenly((panels.len().div_ceil(2), 2)).iter().zip(panels) {
        let all = || panel.lines.iter().flat_map(|line| &line.points);
        let (x, y) = (span(all().map(|point| point.0)), span(all().map(|point| point.1)));
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((x.0..x.1).log_scale(), (y.0 / 1.5..y.1 * 20.0).log_scale())?;
        let number = |number: &f64| number.to_string();
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 15))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .x_desc(panel.x)
            .y_desc(panel.y)
            .draw()?;
        for line in &panel.lines {
            let place = names.iter().position(|name| *name == line.name).unwrap_or_default();
            let color = Palette99::pick(place).to_rgba();
            chart
                .draw_series(
                    LineSeries::new(line.points.clone(), color.stroke_width(2)).point_size(3),
                )?
                .label(line.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font((FONT, 12))
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    Ok(picture.present()?)
}

/// Returns the smallest and the largest positive number.
fn span(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let positive = numbers.filter(|number| *number > 0.0);
    let (least, most) = positive
        .fold((f64::MAX, 0.0_f64), |(least, most), number| (least.min(number), most.max(number)));
    if least > most { (1.0, 1.0) } else { (least, most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_names_every_axis_and_line() {
        let line = |name, y| Line { name, points: vec![(1.0, y), (1_000.0, 10.0 * y)] };
        let panel =
            Panel { x: "sessions", y: "rate", lines: vec![line("hit", 3.0), line("miss", 0.5)] };
        let empty = Panel { x: "nodes", y: "CPU", lines: Vec::new() };
        let mut svg = String::new();
        draw(&mut svg, &[panel, empty]).expect("a picture");
        for text in ["sessions", "rate", "hit", "miss", "nodes", "CPU"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.matches("<polyline").count() >= 2, "{svg}");
    }
}
