//! Plots as inline SVG. Colours come from the page's style sheet, so that they follow its theme.

use std::fmt::Write as _;

use super::escaped;

/// The size of a plot in its own units. The page scales it to its width. The size is that of a
/// narrow window, so that labels stay legible there.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 180.0;
/// The space for the labels.
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 12.0;

/// A line over time.
#[derive(Debug)]
pub struct Line<'a> {
    /// The title, which is also read out.
    pub title: &'a str,
    /// The unit of the values, with its space.
    pub unit: &'a str,
    /// Points of time in ms, and values.
    pub points: &'a [(f64, f64)],
    /// The highest value of the scale, or the highest point.
    pub top: Option<f64>,
    /// The spans of time in which something was broken.
    pub shades: &'a [Shade],
}

/// A span of time in which something was broken.
#[derive(Debug, Clone)]
pub struct Shade {
    /// The begin in ms.
    pub from: f64,
    /// The end in ms.
    pub to: f64,
    /// A few words, or none.
    pub label: String,
}

impl Line<'_> {
    /// Returns the plot.
    #[must_use]
    pub fn svg(&self) -> String {
        let last = self.points.iter().map(|point| point.0).fold(1.0, f64::max);
        let highest = self.points.iter().map(|point| point.1).fold(0.0, f64::max);
        let top = self.top.unwrap_or_else(|| round_up(highest));
        let x = |ms: f64| (ms / last).mul_add(WIDTH - LEFT - RIGHT, LEFT);
        let y =
            |value: f64| (value / top).min(1.0).mul_add(-(HEIGHT - TOP - BOTTOM), HEIGHT - BOTTOM);
        let mut svg = begin(self.title);
        for shade in self.shades {
            let (from, to) = (x(shade.from.min(last)), x(shade.to.min(last)));
            let _ = write!(
                svg,
                "<rect class=\"away\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>\
                 <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                (to - from).max(1.0),
                HEIGHT - TOP - BOTTOM,
                from + 4.0,
                TOP + 14.0,
                escaped(&shade.label)
            );
        }
        for part in [0.0, 0.5, 1.0] {
            let (value, at) = (top * part, y(top * part));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"label\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                number(value),
                self.unit
            );
        }
        for part in [0.0, 0.5, 1.0] {
            let ms = last * part;
            let _ = write!(
                svg,
                "<text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{:.1} s</text>",
                x(ms).clamp(LEFT + 8.0, WIDTH - RIGHT - 16.0),
                HEIGHT - 8.0,
                ms / 1000.0
            );
        }
        let points = self.points.iter();
        let points: Vec<String> =
            points.map(|(ms, value)| format!("{:.1},{:.1}", x(*ms), y(*value))).collect();
        let _ = write!(svg, "<polyline class=\"line\" points=\"{}\"/></svg>", points.join(" "));
        svg
    }
}

/// Returns bars of two sides for each name.
#[must_use]
pub fn bars(title: &str, groups: &[(&str, f64, f64)], unit: &str) -> String {
    let highest = groups.iter().flat_map(|(_, a, b)| [*a, *b]).fold(0.0, f64::max);
    let top = highest.max(0.001);
    let mut svg = begin(title);
    let mut left = LEFT;
    #[expect(clippy::cast_precision_loss, reason = "there are a few groups")]
    let step = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    for (name, before, after) in groups {
        for (value, class, shift) in [(before, "before", 0.12), (after, "after", 0.52)] {
            let height = value / top * (HEIGHT - TOP - BOTTOM - 16.0);
            let (x, y) = (step.mul_add(shift, left), HEIGHT - BOTTOM - height);
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
                 height=\"{height:.1}\"/><text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" \
                 y=\"{:.1}\">{value:.2}{unit}</text>",
                step * 0.36,
                step.mul_add(0.18, x),
                y - 4.0
            );
        }
        let _ = write!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            step.mul_add(0.5, left),
            HEIGHT - 8.0
        );
        left += step;
    }
    svg + "</svg>"
}

fn begin(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"><title>{title}\
         </title>"
    )
}

/// Returns the next higher number of the form 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let mut power = 0.001;
    while power < 1e9 {
        for digit in [1.0, 2.0, 5.0] {
            if digit * power >= value {
                return digit * power;
            }
        }
        power *= 10.0;
    }
    value
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_a_point_per_sample_within_the_plot() {
        let points = [(0.0, 0.0), (500.0, 50.0), (1000.0, 100.0)];
        let shades = [Shade { from: 400.0, to: 600.0, label: "Redis away".to_owned() }];
        let line = Line {
            title: "hit rate",
            unit: " %",
            points: &points,
            top: Some(100.0),
            shades: &shades,
        };
        let svg = line.svg();
        assert!(svg.contains("points=\"56.0,152.0 222.0,82.0 388.0,12.0\""), "{svg}");
        assert!(svg.contains("Redis away"), "{svg}");
    }

    #[test]
    fn scale_ends_at_a_round_number() {
        for (value, top) in [(0.3, 0.5), (5.0, 5.0), (5.1, 10.0), (0.0, 0.001)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }
}
