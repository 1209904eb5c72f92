//! CORS, for the origins that the configuration names and for no others.

use crate::config::Config;
use crate::values::answer::Answer;
use crate::values::error::{Error, Result};

/// What `Allow` says where these methods are answered.
pub fn allow(config: &Config, methods: &str) -> String {
    match config.cors_origins.is_empty() {
        true => methods.to_owned(),
        false => format!("{methods}, OPTIONS"),
    }
}

/// The answer to `OPTIONS`.
pub fn preflight(config: &Config, origin: Option<&str>, methods: &str) -> Result<Answer> {
    if config.cors_origins.is_empty() {
        return Err(Error::MethodNotSupported { allow: allow(config, methods) });
    }
    if !is_allowed(config, origin) {
        return Err(Error::Forbidden(
            "Pages of this origin may not call: add it to cors_origins in proxy.toml.".into(),
        ));
    }
    Ok(Answer::empty(204)
        .with("Access-Control-Allow-Methods", allow(config, methods))
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, X-B24proxy-Token")
        .with("Access-Control-Max-Age", "600"))
}

fn is_allowed(config: &Config, origin: Option<&str>) -> bool {
    origin.is_some_and(|origin| config.cors_origins.iter().any(|allowed| allowed == origin))
}

/// Adds the headers that let a configured origin read the answer.
pub fn decorate(answer: Answer, config: &Config, origin: Option<&str>) -> Answer {
    match origin {
        Some(origin) if is_allowed(config, Some(origin)) => answer
            .with("Access-Control-Allow-Origin", origin)
            .with("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, Idempotent-Replayed")
            .with("Vary", "Origin"),
        _ => answer,
    }
}
