use std::process::ExitCode;

/// `GATEWAY_INTERFACE` alone tells a CGI request from the command line: Apache passes an
/// ISINDEX-style query as arguments (RFC 3875, section 4.4), so arguments decide nothing.
fn main() -> ExitCode {
    if std::env::var_os("GATEWAY_INTERFACE").is_some() {
        b24proxy::serve::cgi();
        ExitCode::SUCCESS
    } else {
        b24proxy::cli::run()
    }
}
