//! The environment of this process.

use crate::values::request::Variables;

/// Takes all variables and removes them from the process, so that nothing in it (a proxy from a request header,
/// `HTTP_PROXY`; what `cgi` cannot digest) acts behind our back. Must run before any thread does.
pub fn take() -> Variables {
    let variables: Vec<_> = std::env::vars_os().collect();
    for (name, _) in &variables {
        // One such as Windows's `=C:` cannot be removed.
        if !name.as_encoded_bytes().contains(&b'=') {
            std::env::remove_var(name);
        }
    }
    Variables::new(variables)
}
