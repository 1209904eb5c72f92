//! The log: one JSON object a line, to the configured file or else to standard error, which is the
//! web server's error log. Callers pass only values that may be seen; secrets are [`crate::values::secret::Secret`]s,
//! which cannot be serialized into a line by accident because fields are plain strings and numbers.

use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

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

/// Where lines go and which are written. Before the configuration is read: standard error, from `info` up.
pub struct Log {
    pub request_id: String,
    target: Mutex<Target>,
}

struct Target {
    level: Level,
    file: Option<std::fs::File>,
}

impl Log {
    pub fn new(request_id: String) -> Self {
        Log { request_id, target: Mutex::new(Target { level: Level::Info, file: None }) }
    }

    /// Follows the configuration. A log file that cannot be opened is named on standard error, which then
    /// goes on serving.
    pub fn configure(&self, level: Level, path: Option<&Path>) {
        let (file, failed) = match path.map(|path| (path, open(path))) {
            Some((_, Ok(file))) => (Some(file), None),
            Some((path, Err(error))) => {
                (None, Some(format!("the log file {} cannot be opened: {error}", path.display())))
            }
            None => (None, None),
        };
        if let Ok(mut target) = self.target.lock() {
            *target = Target { level, file };
        }
        if let Some(why) = failed {
            self.warn(&why);
        }
    }

    pub fn error(&self, message: &str) {
        self.line(Level::Error, message, &[]);
    }

    pub fn warn(&self, message: &str) {
        self.line(Level::Warn, message, &[]);
    }

    pub fn line(&self, level: Level, message: &str, fields: &[(&str, Value)]) {
        let Ok(mut target) = self.target.lock() else { return };
        if level > target.level {
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
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // One write a line keeps lines of several processes apart. What the file does not take, of a full disk the reason
        // itself, goes to standard error; a log that cannot be written stops nobody.
        let written = target.file.as_mut().is_some_and(|file| file.write_all(text.as_bytes()).is_ok());
        if !written {
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
