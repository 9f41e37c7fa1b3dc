//! Rows and how they are printed.

use std::fmt::Write;

/// How one row came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It held, and this was seen.
    Ok(String),
    /// It did not hold.
    Failed {
        /// What was seen instead.
        what: String,
        /// Where to look.
        look: String,
    },
}

/// One building block or backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was tried.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

impl Row {
    /// A row from what a check returned; `look` is for its failure.
    pub fn new(name: &'static str, result: anyhow::Result<String>, look: &str) -> Self {
        let outcome = match result {
            Ok(seen) => Outcome::Ok(seen),
            Err(error) => Outcome::Failed { what: format!("{error:#}"), look: look.to_owned() },
        };
        Self { name, outcome }
    }

    /// Whether it failed.
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}

/// The rows as text, one to three lines each.
pub fn print_rows(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let lines = match &row.outcome {
            Outcome::Ok(seen) => vec![format!("ok      {seen}")],
            Outcome::Failed { what, look } => vec![format!("FAILED  {what}"), format!("        look: {look}")],
        };
        for (index, line) in lines.iter().enumerate() {
            let name = if index == 0 { row.name } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {name:width$}  {line}");
        }
    }
    out
}

/// Columns as text, each as wide as its widest cell.
pub fn print_columns(head: &[&str], lines: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.len());
        }
    }
    let mut out = String::new();
    let head = head.iter().map(ToString::to_string).collect();
    for line in std::iter::once(&head).chain(lines) {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_row_says_what_and_where_to_look() {
        let row = Row::new("state", Err(anyhow::anyhow!("409 expected")), "Component statestore");
        assert!(row.failed());
        assert_eq!(print_rows(&[row]), "  state  FAILED  409 expected\n                 look: Component statestore\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        assert_eq!(print_columns(&["x", "n"], &lines), "  x     n\n  a     1\n  long  2\n");
    }
}
