//! The table of figures beside their bounds, as Markdown that reads well in a terminal too.

use std::fmt::Write as _;
use std::fs;

/// What is asked of a figure of ours.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// Nothing: it is shown for information.
    None,
    /// At most this.
    AtMost(f64),
    /// At most this share of the other side's figure.
    Share {
        /// The other side's figure.
        of: f64,
        /// The part of it, for example a fifth.
        part: f64,
    },
}

/// What a figure counts.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// Seconds, shown in the unit that suits them.
    Seconds,
    /// MiB.
    Mebibytes,
    /// KiB.
    Kibibytes,
    /// Things.
    Count,
}

/// One line of the table.
#[derive(Debug, Clone)]
struct Row {
    what: String,
    cells: Vec<String>,
    ratio: String,
    bound: String,
    met: &'static str,
}

/// The table: columns of other sides, ours last.
#[derive(Debug, Clone)]
pub struct Report {
    columns: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    /// A table with these columns of figures; the last one is ours.
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a line. Figures stand in the order of the columns; the last is ours and is what the
    /// bound is for. The ratio is that of ours to the first.
    pub fn add(&mut self, what: impl Into<String>, unit: Unit, figures: &[Option<f64>], bound: Bound) {
        let cells = figures.iter().map(|figure| figure.map_or_else(|| "–".into(), |value| unit.show(value))).collect();
        let ours = figures.last().copied().flatten();
        let ratio = match (figures.first().copied().flatten(), ours) {
            (Some(theirs), Some(ours)) if figures.len() > 1 && theirs > 0.0 => format!("{:.3}", ours / theirs),
            _ => "–".into(),
        };
        let limit = match bound {
            Bound::None => None,
            Bound::AtMost(limit) => Some((limit, format!("≤ {}", unit.show(limit)))),
            Bound::Share { of, part } => Some((of * part, format!("≤ {} ({})", share(part), unit.show(of * part)))),
        };
        let met = match (&limit, ours) {
            (Some((limit, _)), Some(ours)) => {
                if ours <= *limit {
                    "yes"
                } else {
                    "**no**"
                }
            }
            _ => "",
        };
        let bound = limit.map_or_else(String::new, |(_, text)| text);
        self.rows.push(Row { what: what.into(), cells, ratio, bound, met });
    }

    /// The whole table.
    pub fn markdown(&self) -> String {
        let mut lines =
            vec![[vec!["what".to_owned()], self.columns.clone(), words(["ratio", "bound", "met"])].concat()];
        for row in &self.rows {
            let tail = vec![row.ratio.clone(), row.bound.clone(), row.met.to_owned()];
            lines.push([vec![row.what.clone()], row.cells.clone(), tail].concat());
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let rule = widths.iter().map(|&width| "-".repeat(width)).collect();
        lines.insert(1, rule);
        let mut text = String::new();
        for line in &lines {
            for (cell, width) in line.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _ = write!(text, "| {cell:<width$} ");
            }
            text.push_str("|\n");
        }
        text
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn share(part: f64) -> String {
    if (part - 1.0).abs() < f64::EPSILON { "1".into() } else { format!("1/{:.0}", 1.0 / part) }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Seconds if value >= 1.0 => format!("{value:.2} s"),
            Self::Seconds if value >= 0.001 => format!("{:.1} ms", value * 1e3),
            Self::Seconds => format!("{:.0} µs", value * 1e6),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Kibibytes => format!("{value:.1} KiB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// The machine in one line: processor, cores, memory, kernel.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: u64 = memory.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (cpu, kernel) = (field(&read("/proc/cpuinfo"), "model name"), read("/proc/sys/kernel/osrelease"));
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} × {cpu}, {} GiB, Linux {}, load before {load}", kib >> 20, kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_within_its_bound_is_told_from_one_beyond() {
        let mut report = Report::new(&["upstream", "ours"]);
        report.add("time", Unit::Seconds, &[Some(10.0), Some(1.0)], Bound::Share { of: 10.0, part: 0.2 });
        report.add("memory", Unit::Mebibytes, &[Some(10.0), Some(3.0)], Bound::AtMost(2.5));
        report.add("rounds", Unit::Count, &[None, Some(3.0)], Bound::None);
        let text = report.markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("| 0.100 | ≤ 1/5 (2.00 s) | yes"), "{text}");
        assert!(lines[3].contains("| 0.300 | ≤ 2.5 MiB      | **no**"), "{text}");
        assert!(lines[4].contains("| –        | 3       | –"), "{text}");
    }

    #[test]
    fn seconds_are_shown_in_the_unit_that_suits_them() {
        let shown = [2.5, 0.25, 0.000_25].map(|value| Unit::Seconds.show(value));
        assert_eq!(shown, ["2.50 s", "250.0 ms", "250 µs"]);
    }
}
