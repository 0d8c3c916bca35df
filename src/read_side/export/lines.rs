//! An export's lines, pure: cut out of network chunks, which follow no line's end, and told from what is no event.
//!
//! A failing export ends with a line of text, `terminated early`, inside a 200 (contract §8). Whatever is not an event is
//! taken for that: the text itself is nobody's promise.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest line; an event has a megabyte at most (contract §3).
const MAX_LINE: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("a line is no event")]
    NoEvent,
    #[error("a line is longer than any event")]
    TooLong,
}

/// Cuts chunks into lines; holds at most one.
#[derive(Debug, Default)]
pub struct Cutter {
    begun: Vec<u8>,
}

impl Cutter {
    /// Gives each line that `chunk` completes to `each`, without its end.
    pub fn feed<E: From<LineError>>(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = chunk;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..at], &rest[at + 1..]);
            if self.begun.is_empty() {
                each(line)?;
            } else {
                self.begun.extend_from_slice(line);
                let line = std::mem::take(&mut self.begun);
                each(&line)?;
            }
            rest = after;
        }
        if self.begun.len() + rest.len() > MAX_LINE {
            return Err(LineError::TooLong.into());
        }
        self.begun.extend_from_slice(rest);
        Ok(())
    }

    /// The last line, when nothing follows it.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "event")]
    _event: &'a RawValue,
    #[serde(borrow)]
    properties: Properties<'a>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow, default)]
    time: Option<&'a RawValue>,
}

/// Seconds are below this until the year 5138, milliseconds above it since 1973.
const MILLISECONDS_FROM: f64 = 1e11;

/// The day of an event, as a number that is the same whenever the same line comes.
pub fn day_of(line: &[u8]) -> Result<i64, LineError> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|_| LineError::NoEvent)?;
    let time = line.properties.time.and_then(|time| time.get().parse::<f64>().ok()).unwrap_or(0.0);
    let seconds = if time >= MILLISECONDS_FROM { time / 1000.0 } else { time };
    Ok((seconds / 86_400.0).floor() as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Result<Vec<String>, LineError> {
        let (mut cutter, mut lines) = (Cutter::default(), Vec::new());
        for chunk in chunks {
            cutter.feed(chunk, |line| {
                lines.push(String::from_utf8_lossy(line).into_owned());
                Ok::<_, LineError>(())
            })?;
        }
        lines.push(String::from_utf8_lossy(&cutter.rest()).into_owned());
        Ok(lines)
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[a-c\\n]{0,60}", at in proptest::collection::vec(0usize..60, 0..6)) {
            let whole: Vec<&str> = text.split('\n').collect();
            let mut at: Vec<usize> = at.into_iter().map(|at| at.min(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(cut(&chunks).unwrap(), whole);
        }
    }

    #[test]
    fn a_line_without_end_is_not_collected_for_ever() {
        let chunk = vec![b'x'; 1 << 20];
        assert_eq!(cut(&[chunk.as_slice(); 5]), Err(LineError::TooLong));
    }

    #[test]
    fn what_is_no_event_is_told() {
        for bad in
            ["terminated early", "export terminated early", "", "{}", r#"{"error":"x"}"#, r#"{"event":"A","prop"#]
        {
            assert_eq!(day_of(bad.as_bytes()), Err(LineError::NoEvent), "{bad}");
        }
    }

    #[test]
    fn a_day_is_read_in_either_unit() {
        let day = |time: &str| day_of(format!(r#"{{"event":"A","properties":{{"time":{time},"x":[1]}}}}"#).as_bytes());
        assert_eq!(day("86400"), Ok(1));
        assert_eq!(day("1750000000"), Ok(1_750_000_000 / 86_400));
        assert_eq!(day("1750000000000"), day("1750000000"));
        assert_eq!(day("\"soon\""), Ok(0));
        assert_eq!(day_of(br#"{"event":null,"properties":{}}"#), Ok(0));
    }
}
