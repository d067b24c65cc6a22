//! Tables without borders, as kubectl prints them.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Columns that keep their widths from one print to the next, for a table that grows while it is watched.
pub struct Columns {
    headers: Vec<&'static str>,
    widths: Vec<u16>,
}

impl Columns {
    /// A table with these headers.
    pub fn new(headers: impl IntoIterator<Item = &'static str>) -> Columns {
        let headers: Vec<_> = headers.into_iter().collect();
        let widths = headers.iter().map(|header| header.len() as u16).collect();
        Columns { headers, widths }
    }

    /// The rows below the headers.
    pub fn with_headers(&mut self, rows: &[Vec<String>]) -> String {
        let header = self.headers.iter().map(|header| (*header).to_owned()).collect();
        let mut all = vec![header];
        all.extend_from_slice(rows);
        self.rows(&all)
    }

    /// More rows.
    pub fn rows(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count() as u16);
            }
        }
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .add_rows(rows.to_vec());
        for (column, width) in table.column_iter_mut().zip(&self.widths) {
            column.set_padding((0, 3));
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + 3)));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 2]) -> Vec<String> {
        cells.map(str::to_owned).into()
    }

    #[test]
    fn columns_are_as_wide_as_needed_and_stay_so() {
        let mut columns = Columns::new(["NAME", "READY"]);
        let first = columns.with_headers(&[row(["a-long-name", "1/1"]), row(["b", "0/1"])]);
        assert_eq!(first, "NAME          READY\na-long-name   1/1\nb             0/1\n");
        assert_eq!(columns.rows(&[row(["c", "1/1"])]), "c             1/1\n");
    }
}
