//! The part of a Markdown file that a program writes.

use std::{fs, path::Path};

use crate::Error;

/// The two marks around the part of a Markdown file that a program writes.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// The name of the part.
    pub name: &'static str,
    /// The command that writes it.
    pub command: &'static str,
}

impl Marks {
    /// Replaces the text between the marks in this file.
    ///
    /// # Errors
    /// If the file cannot be read or written, or lacks the marks.
    pub fn write(self, path: &Path, text: &str) -> Result<(), Error> {
        let file = |error| format!("cannot write the table to {}: {error}", path.display());
        let before = fs::read_to_string(path).map_err(file)?;
        let after = self.replace(&before, text).ok_or_else(|| {
            let [begin, end] = self.lines();
            format!("{} lacks a line `{begin}`, and a later one `{end}`", path.display())
        })?;
        Ok(fs::write(path, after).map_err(file)?)
    }

    fn lines(self) -> [String; 2] {
        let Self { name, command } = self;
        [format!("<!-- {name}: written by `{command}` -->"), format!("<!-- end of {name} -->")]
    }

    /// Replaces the text between the marks. Returns `None` if they are missing.
    fn replace(self, text: &str, with: &str) -> Option<String> {
        let [begin, end] = self.lines();
        let (before, rest) = text.split_once(&begin)?;
        let (_, after) = rest.split_once(&end)?;
        Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", with.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_marks_is_replaced() {
        let marks = Marks { name: "cost", command: "make cost" };
        let [begin, end] = marks.lines();
        let page = format!("# A\n{begin}\nold\n{end}\nB\n");
        let new = marks.replace(&page, "new\n\n").expect("both marks");
        assert_eq!(new, format!("# A\n{begin}\n\nnew\n\n{end}\nB\n"));
        assert_eq!(marks.replace(&new, "new"), Some(new.clone()));
        for lacks in [format!("{begin}\n"), format!("{end}\n"), format!("{end}{begin}")] {
            assert_eq!(marks.replace(&lacks, "new"), None);
        }
    }
}
