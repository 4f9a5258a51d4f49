//! A part of a terminal that is drawn again and again in place.

use std::io::{self, IsTerminal as _, Write as _, stdout};

use rustix::termios::tcgetwinsize;

use crate::text::{cut, one_line};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
/// What is too wide all the same (characters of two columns) is cut by the terminal: one line stays one line.
const STOP_WRAPPING: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const CLEAR_ALL: &str = "\x1b[H\x1b[2J";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// That of the terminal that is written to, if it is one.
pub(crate) fn size() -> Option<Size> {
    let out = stdout();
    if !out.is_terminal() {
        return None;
    }
    let known = tcgetwinsize(&out).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    // What terminals had before they could be asked.
    let (width, height) = known.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
    Some(Size { width, height })
}

/// Hides the cursor while it lives.
pub(super) struct Screen {
    drawn: usize,
    size: Size,
}

impl Screen {
    /// `None` where nothing can be drawn in place.
    pub(super) fn open() -> Option<Self> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let size = size().filter(|_| !is_dumb)?;
        let mut out = stdout();
        write!(out, "{HIDE_CURSOR}").and_then(|()| out.flush()).ok()?;
        Some(Self { drawn: 0, size })
    }

    /// Instead of what was shown before. `draw` is told how much room there is.
    pub(super) fn show(&mut self, draw: impl FnOnce(Size) -> Vec<String>) -> io::Result<()> {
        let size = size().unwrap_or(self.size);
        let lines = draw(size);
        let shown = lines.len().min(size.height.saturating_sub(1));
        let text = paint(&lines[..shown], self.drawn, size.width, size != self.size);
        (self.drawn, self.size) = (shown, size);
        let mut out = stdout();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = stdout();
        // The terminal may be gone; then there is nobody to miss its cursor.
        let _ = write!(out, "{WRAP}{SHOW_CURSOR}").and_then(|()| out.flush());
    }
}

/// What replaces the `drawn` lines above. After a change of size nobody knows where these are.
fn paint(lines: &[String], drawn: usize, width: usize, is_resized: bool) -> String {
    let mut text = match drawn {
        _ if is_resized => CLEAR_ALL.to_owned(),
        0 => String::new(),
        drawn => format!("\r\x1b[{drawn}A"),
    };
    text.push_str(STOP_WRAPPING);
    for line in lines {
        text.push_str(&cut(&one_line(line), width));
        text.push_str(CLEAR_LINE);
        text.push('\n');
    }
    text.push_str(CLEAR_BELOW);
    text.push_str(WRAP);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drawn_is_replaced_line_by_line() {
        let lines = ["one\u{1b}[31m".to_owned(), "a\nb".to_owned()];
        let body = "\x1b[?7lone [31m\x1b[K\na b\x1b[K\n\x1b[J\x1b[?7h";
        assert_eq!(paint(&lines, 0, 80, false), body);
        assert_eq!(paint(&lines, 7, 80, false), format!("\r\x1b[7A{body}"));
        assert_eq!(paint(&lines, 7, 80, true), format!("\x1b[H\x1b[2J{body}"));
        assert!(paint(&lines, 0, 3, false).contains("on…\x1b[K"));
    }
}
