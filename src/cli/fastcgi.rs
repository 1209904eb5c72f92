//! `b24proxy fastcgi`: the program resident.

use super::command::{Failure, Outcome};
use super::terminal;
use crate::values::listening::{workers, Address, Listening};
use clap::Args;

const HELP: &str = "\
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
and USR1 end it when the requests under way have ended.";

/// Serves requests by FastCGI until told to end
#[derive(Args)]
#[command(before_help = HELP)]
pub struct FastCgi {
    /// Where: unix:PATH or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse)]
    listen: Option<Address>,
    /// How many requests are served at once
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<u32>,
}

/// Serves at that place until this process is told to end. The error says why it cannot begin.
pub type Listen = fn(&Listening) -> Result<(), String>;

impl FastCgi {
    pub fn run(&self, listen: Listen) -> Outcome {
        let listening = Listening { address: self.listen.clone(), workers: self.workers };
        if listening.address.is_none() && !terminal::input_is_a_listening_socket() {
            return Err(Failure::Usage(
                "fastcgi needs to know where to listen: --listen unix:/run/b24proxy.sock".into(),
            ));
        }
        Ok(listen(&listening)?)
    }
}
