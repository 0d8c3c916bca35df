//! Putting text on a terminal of a hundred columns: a little weight and colour where there is a terminal, none elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

/// What the output is laid out for.
pub const WIDTH: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Bold,
    Dim,
    Good,
    Bad,
}

/// Where the demo writes. Lines appear as they are written.
pub struct Paper {
    colour: bool,
}

impl Paper {
    /// Standard output; colours on a terminal that wants them (`NO_COLOR`, `TERM=dumb`).
    pub fn stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colour: io::stdout().is_terminal() && !unwanted }
    }

    pub fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            _ if !self.colour => return text.to_owned(),
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    pub fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// A heading with air above it and a rule to the edge.
    pub fn heading(&self, text: &str) -> io::Result<()> {
        let rule = "─".repeat(WIDTH.saturating_sub(text.chars().count() + 1));
        self.line("")?;
        self.line(&format!("{} {}", self.ink(Ink::Bold, text), self.ink(Ink::Dim, &rule)))
    }
}

/// `text` padded with spaces to `width` columns, or cut to it with an ellipsis.
pub fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length > width {
        let cut: String = text.chars().take(width.saturating_sub(1)).collect();
        return format!("{cut}…");
    }
    // Counted in characters, as `format!` does.
    format!("{text:width$}")
}

/// JSON text in lines of up to `width` columns, broken behind commas that stand outside strings; nothing else of it is
/// touched. A piece longer than a line gets a line of its own.
pub fn fill(json: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in pieces(json) {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + piece.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(piece);
        }
    }
    lines
}

fn pieces(json: &str) -> Vec<&str> {
    let (mut pieces, mut from, mut in_string, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in json.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ',' if !in_string => {
                pieces.push(&json[from..=at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&json[from..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_broken_behind_commas_and_left_as_it_is() {
        let json = r#"{"a":"x,\",y","b":[1,2],"c":"a long value that fits no line"}"#;
        let lines = fill(json, 16);
        assert_eq!(lines.concat(), json);
        assert_eq!(lines[0], r#"{"a":"x,\",y","#);
        assert_eq!(lines[1], r#""b":[1,2],"#);
    }

    #[test]
    fn text_is_padded_or_cut() {
        assert_eq!(fit("ab", 4), "ab  ");
        assert_eq!(fit("abcdef", 4), "abc…");
    }
}
