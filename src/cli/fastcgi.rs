//! `b24proxy fastcgi`: the program resident.

use super::arguments::{Arguments, Flag};
use super::command::{nothing, Command, Failure, Outcome};
use super::terminal;
use crate::values::listening::{workers, Address, Listening};

pub const NAME: &str = "fastcgi";

pub const COMMAND: Command = Command {
    name: NAME,
    usage: "[--listen ADDRESS] [--workers N]",
    summary: "serve requests by FastCGI until told to end",
    help: "\
The web server starts one process for each request. As a FastCGI server the
program stays instead, and keeps its connections to portals: calls are many
times as fast. The web server must know the address.

  --listen unix:/run/b24proxy.sock   a socket that its group may use, too
  --listen 127.0.0.1:9000            for this machine; for others those in
                                     the variable FCGI_WEB_SERVER_ADDRS
  --workers N                        requests that are served at once; 8, or
                                     [fastcgi] workers in proxy.toml

Started with a listening socket as standard input (mod_fcgid, spawn-fcgi,
lighttpd, systemd) it needs no --listen, and has one worker.

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
