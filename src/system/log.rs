//! The log: one JSON object a line, to the configured file or else to the error stream of whoever serves, which is the web
//! server's error log. Callers pass only values that may be seen; secrets are `Secret`s, which cannot be serialized into a
//! line by accident because fields are plain strings and numbers.

use super::disk::{is_anothers, not_through_a_link, not_waiting, private, Identity};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// As many as Linux follows.
const MOST_LINKS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Where lines go and which are written, for all requests.
pub struct Sink {
    level: Level,
    /// The configured file.
    path: Option<PathBuf>,
    file: Option<(File, Option<Identity>)>,
    /// Why the configured file is not used.
    unopened: Option<String>,
}

impl Sink {
    /// A file that cannot be opened is named by the log of each request, which then goes to the error stream.
    pub fn new(level: Level, path: Option<&Path>) -> Sink {
        let (file, unopened) = match path.map(|path| (path, open(path, true))) {
            Some((_, Ok(file))) => {
                let identity = file.metadata().ok().as_ref().map(Identity::of_metadata);
                (Some((file, identity)), None)
            }
            Some((path, Err(error))) => {
                (None, Some(format!("the log file {} cannot be opened: {error}", path.display())))
            }
            None => (None, None),
        };
        Sink { level, path: path.map(Path::to_owned), file, unopened }
    }

    /// The same with the file that stands at the path now, where that is another one: it was rotated, or made since.
    pub fn renewed(&self) -> Option<Sink> {
        let path = self.path.as_deref()?;
        let is_open = self.file.as_ref().and_then(|(_, open)| *open).zip(Identity::of(path));
        match is_open {
            Some((open, there)) if open.is_same_file(&there) => None,
            _ => Some(Sink::new(self.level, Some(path))),
        }
    }

    /// Before there is a configuration: the error stream, from `info` up.
    pub fn unconfigured() -> Sink {
        Sink::new(Level::Info, None)
    }
}

/// Takes the lines that no file takes.
pub type ErrorStream = Box<dyn Fn(&[u8]) + Send + Sync>;

/// The log of one request.
pub struct Log {
    pub request_id: String,
    sink: Arc<Sink>,
    errors: ErrorStream,
}

impl Log {
    pub fn new(sink: Arc<Sink>, request_id: String, errors: ErrorStream) -> Log {
        let log = Log { request_id, sink, errors };
        if let Some(why) = &log.sink.unopened {
            log.warn(why);
        }
        log
    }

    pub fn error(&self, message: &str) {
        self.line(Level::Error, message, &[]);
    }

    pub fn warn(&self, message: &str) {
        self.line(Level::Warn, message, &[]);
    }

    pub fn line(&self, level: Level, message: &str, fields: &[(&str, Value)]) {
        if level > self.sink.level {
            return;
        }
        let mut line = Map::new();
        line.insert("time".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
        line.insert("level".into(), level.name().into());
        line.insert("message".into(), message.into());
        line.insert("request_id".into(), self.request_id.clone().into());
        for (name, value) in fields {
            line.insert((*name).into(), value.clone());
        }
        let mut text = printable(&Value::Object(line).to_string()).into_owned();
        text.push('\n');
        // One write a line keeps lines of several processes and threads apart. What the file does not take, of a full disk
        // the reason itself, goes to the error stream; a log that cannot be written stops nobody.
        let written = self.sink.file.as_ref().is_some_and(|(file, _)| {
            let mut file = file;
            file.write_all(text.as_bytes()).is_ok()
        });
        if !written {
            (self.errors)(text.as_bytes());
        }
    }
}

/// The text without control characters, which a terminal or a log's reader could obey; each is a space instead.
pub fn printable(text: &str) -> Cow<'_, str> {
    match text.contains(is_control) {
        true => text.chars().map(|c| if is_control(c) { ' ' } else { c }).collect::<String>().into(),
        false => text.into(),
    }
}

/// C0, C1 and DEL, separators of lines, and what turns the direction of writing (Unicode's `Bidi_Control`), by which a text
/// can look like another.
pub fn is_control(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Opens a log file to append to; made if need be and wanted. A link is followed only where root or this user made it, for
/// another's leads where that one likes. Nothing waits for the reader of a pipe.
pub fn open(path: &Path, create: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(create);
    private(&mut options);
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Some(link) = path.symlink_metadata().ok().filter(Metadata::is_symlink) else {
            not_through_a_link(&mut options);
            return options.open(&path);
        };
        if is_anothers(&link) {
            return Err(std::io::Error::other(format!("{} is a link that another user made", path.display())));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        // The kernel's own, where `/dev/stderr` leads to: what it names need not have a path.
        if folder.canonicalize()?.starts_with("/proc") {
            not_waiting(&mut options);
            return options.open(&path);
        }
        path = folder.join(path.read_link()?);
    }
    Err(std::io::Error::other("too many links"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_log_may_be_named_as_the_error_stream_is() {
        let place = std::env::temp_dir().join(format!("b24proxy-log-{}", crate::values::secret::random_hex::<8>()));
        std::fs::create_dir(&place).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let kernels = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
        std::os::unix::fs::symlink(kernels, place.join("stderr")).unwrap();
        std::os::unix::fs::symlink("stderr", place.join("log")).unwrap();
        open(&place.join("log"), true).unwrap().write_all(b"a line").unwrap();
        drop(writer);
        assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "a line");
        std::os::unix::fs::symlink("round", place.join("round")).unwrap();
        assert!(open(&place.join("round"), true).is_err());
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn controls_become_spaces() {
        assert_eq!(printable("a\x1b[31mb\u{9b}c\nd\x7f"), "a [31mb c d ");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}\u{200f}\u{61c}"), "a b c   ");
        assert!(matches!(printable("Стол — «ok»"), Cow::Borrowed(_)));
    }
}
