//! `b24proxy help`: what there is, and what each command is good for.

use super::command::Command;

pub fn overview(commands: &[&Command]) -> String {
    let mut text = String::from(
        "b24proxy lets 1C call Bitrix24's REST API. The web server runs it; you, on the
command line, set it up and look after it:

",
    );
    for command in commands {
        text += &format!("  {:<12} {}\n", command.name, command.summary);
    }
    text += "  help COMMAND what a command does, with examples

First steps:
  b24proxy token                        a token for 1C, and where it is written
  b24proxy check                        is everything in place?
  b24proxy check --url https://www.example.com/cgi-bin/b24proxy
  b24proxy install-url PORTAL           the address at which tokens are obtained

proxy.toml is looked for where the web server's run looks for it: beside the
executable, then as b24proxy/proxy.toml in each folder above, then in
/etc/b24proxy. B24PROXY_CONFIG=/path/to/proxy.toml names another one.
Started by root, a command goes on as the user whom the configuration and the
token folder belong to.

Exit status: 0 fine, 1 something is wrong, 2 wrong usage.";
    text
}

pub fn usage(command: &Command) -> String {
    format!("b24proxy {} {}", command.name, command.usage).trim_end().to_owned()
}

pub fn of(command: &Command) -> String {
    format!("{}\n\n{}", usage(command), command.help)
}
