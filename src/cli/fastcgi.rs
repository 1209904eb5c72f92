//! `b24proxy fastcgi`: the program resident.

use super::arguments::{Arguments, Flag};
use super::command::{nothing, Command, Failure, Outcome};
use super::terminal;
use crate::values::listening::{self, workers, Address, Listening};

pub const COMMAND: Command = Command {
    name: listening::COMMAND,
    usage: "[--listen ADDRESS] [--workers N]",
    summary: "serve requests by FastCGI until told to end",
    help: "\
The web server starts one process for each request. As a FastCGI server the
program stays instead, and keeps its connections to portals: calls are many
times as fast. The web server must know the address.

  --listen unix:/srv/b24/b24proxy.sock   in a folder of proxy.toml's owner, as
                                         whom it runs; for its group, too
  --listen 127.0.0.1:9000                for everybody on this machine, who may
                                         name any caller's address: better not
                                         (FCGI_WEB_SERVER_ADDRS: other machines)
  --workers N                            requests that are served at once; 8, or
                                         [fastcgi] workers in proxy.toml

Started with a listening socket as standard input (mod_fcgid, spawn-fcgi,
lighttpd, systemd) it needs no --listen, and has one worker.

What it logs of a request goes to the web server, which may keep it to itself
(the nginx file that is shipped does): set [log] file in proxy.toml.

It notices when proxy.toml, the log or the executable changes. TERM, INT, HUP
and USR1 end it when the requests under way have ended.",
    words: (0, 0),
    options: &[Flag { name: "--listen", value: Some("ADDRESS") }, Flag { name: "--workers", value: Some("N") }],
    on_files: true,
    reads: nothing,
    // It is served by another room.
    run: |_| Ok(()),
};

/// Serves at that place until this process is told to end. The error says why it cannot begin.
pub type Listen = fn(&Listening) -> Result<(), String>;

pub fn serve(arguments: &Arguments, listen: Listen) -> Outcome {
    let listening = Listening {
        address: arguments.value("--listen").map(Address::parse).transpose().map_err(Failure::Usage)?,
        workers: arguments.value("--workers").map(workers).transpose().map_err(Failure::Usage)?,
    };
    if listening.address.is_none() && !terminal::input_is_a_listening_socket() {
        return Err(Failure::Usage("fastcgi needs to know where to listen: --listen unix:/run/b24proxy.sock".into()));
    }
    Ok(listen(&listening)?)
}
