//! The machine: one's own server, where cures can be typed, or rented web space, where the host is to be asked; and what of
//! README.md's steps for one's own server was forgotten.

use super::line::{is_command, Line, Status};
use crate::cli::owner::is_started_by_root;
use crate::cli::terminal::variable;
use crate::config::Surroundings;
use crate::system::user::{self, name_of, number_of, typed};
use std::path::Path;

/// What is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// Commands of root's can be typed as they stand.
    by_root: bool,
    /// Root has laid the files out, or `sudo` was used.
    own: bool,
    apache: Option<Apache>,
    nginx: bool,
}

/// Debian's Apache.
#[derive(Clone, Copy, Debug)]
struct Apache {
    /// `b24proxy.conf` in `conf-available`.
    is_copied: bool,
    is_enabled: bool,
    /// mod_cgid or mod_cgi.
    runs_cgi: bool,
}

impl Host {
    pub fn of(surroundings: &Surroundings) -> Host {
        let by_root = is_started_by_root();
        let below = |path: Option<&Path>, root: &str| path.is_some_and(|path| path.starts_with(root));
        let config = surroundings.locate();
        let own = by_root
            || variable("SUDO_UID").is_some()
            || below(config.as_deref(), "/etc")
            || below(surroundings.executable.as_deref(), "/usr");
        let is_there = |path: &str| Path::new(path).exists();
        let apache = is_there("/etc/apache2").then(|| Apache {
            is_copied: is_there("/etc/apache2/conf-available/b24proxy.conf"),
            is_enabled: is_there("/etc/apache2/conf-enabled/b24proxy.conf"),
            runs_cgi: is_there("/etc/apache2/mods-enabled/cgid.load") || is_there("/etc/apache2/mods-enabled/cgi.load"),
        });
        Host { by_root, own, apache, nginx: is_there("/etc/nginx") }
    }

    /// A cure that only root can type, in words for whoever has started this.
    pub fn worded(&self, line: Line) -> Line {
        let gives = line.cure.starts_with("chown ") || line.cure.contains(" && chown ");
        let is_roots = gives && is_command(&line.cure) && !self.by_root;
        let cure = match (is_roots, self.own) {
            (false, _) => return line,
            (true, true) => self.typed(&line.cure),
            (true, false) => format!("ask the host for: {}", line.cure),
        };
        Line { cure, ..line }
    }

    /// A command of root's; only on one's own server.
    fn typed(&self, command: &str) -> String {
        match self.by_root {
            true => command.to_owned(),
            false => format!("sudo {}", command.replace(" && ", " && sudo ")),
        }
    }

    /// The command that does what was forgotten of README.md's for Apache.
    fn forgotten(&self) -> Option<(String, String)> {
        let apache = self.apache.filter(|apache| self.own && apache.is_copied)?;
        let (what, command) = match (apache.runs_cgi, apache.is_enabled) {
            (true, true) => return None,
            (false, true) => ("has no module that runs CGI programs", "a2enmod cgid && systemctl restart apache2"),
            (true, false) => ("does not use b24proxy.conf", "a2enconf b24proxy && systemctl reload apache2"),
            (false, false) => (
                "has no module that runs CGI programs, and does not use b24proxy.conf",
                "a2enmod cgid && a2enconf b24proxy && systemctl restart apache2",
            ),
        };
        Some((format!("Apache {what}"), self.typed(command)))
    }

    /// Where something fails of what the web server does, and a step of README.md was forgotten, that is the one thing to do.
    pub fn instead(&self, lines: Vec<Line>) -> Vec<Line> {
        match self.forgotten().filter(|_| lines.iter().any(Line::fails)) {
            None => lines,
            Some((text, cure)) => {
                let well = lines.into_iter().filter(|line| line.status == Status::Ok);
                well.chain([Line::fail("web server", text, cure)]).collect()
            }
        }
    }

    /// What starts the web server that refuses a connection.
    pub fn not_running(&self) -> Option<(&'static str, String)> {
        let (question, command) = match (self.apache.is_some(), self.nginx) {
            (true, false) => ("is Apache running?", "systemctl restart apache2"),
            (false, true) => ("is nginx running?", "systemctl restart nginx"),
            (true, true) => ("are nginx and Apache running?", "systemctl restart apache2 nginx"),
            (false, false) => return None,
        };
        self.own.then(|| (question, self.typed(command)))
    }

    /// What an answer with this status, of the web server itself, means on one's own server.
    pub fn cure(&self, status: u16) -> Option<String> {
        match (status, self.apache, self.nginx) {
            (502, None, true) if self.own && Path::new("/etc/systemd/system/b24proxy.socket").exists() => {
                Some(self.typed("systemctl restart b24proxy.socket"))
            }
            (404, None, true) if self.own => Some(format!(
                "write \"include snippets/b24proxy.conf;\" into the site's server block in /etc/nginx/sites-enabled, then: {}",
                self.typed("systemctl reload nginx")
            )),
            _ => None,
        }
    }

    /// Where even the configuration is root's, so that this has stayed root.
    pub fn of_root(&self, config: Option<&Path>) -> Option<Line> {
        const TEXT: &str =
            "proxy.toml and the token folder are root's: the web server runs programs as another user, who cannot use \
                            them";
        let config = config.filter(|_| user::own() == Some(0))?;
        match servers_user().filter(|_| self.apache.is_some() || self.nginx) {
            Some(user) => Some(Line::fail("user", TEXT, giving(config, &name_of(user)))),
            None => Some(Line::warn(
                "user",
                TEXT,
                format!("give them to the user as whom the web server runs the program: {}", giving(config, "USER")),
            )),
        }
    }

    /// The files' owner is not the user as whom this server's web server runs programs: the command that mends it.
    pub fn given_to_the_server(&self, config: &Path) -> Option<(String, String)> {
        let user = servers_user().filter(|_| self.own && (self.apache.is_some() || self.nginx))?;
        let owner = owner_of(config).filter(|owner| *owner != user)?;
        let (owner, user) = (name_of(owner), name_of(user));
        Some((
            format!("the files are {owner}'s, and the web server runs programs as {user}"),
            self.typed(&giving(config, &user)),
        ))
    }
}

/// Gives a user the configuration, and the folder where it is the site's own.
fn giving(config: &Path, user: &str) -> String {
    match config.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "b24proxy")) {
        Some(folder) => format!("chown -R {user}: {}", typed(folder)),
        None => format!("chown {user}: {}", typed(config)),
    }
}

#[cfg(unix)]
fn owner_of(path: &Path) -> Option<u32> {
    Some(std::os::unix::fs::MetadataExt::uid(&path.metadata().ok()?))
}

#[cfg(not(unix))]
fn owner_of(_: &Path) -> Option<u32> {
    None
}

/// As whom the web servers of distributions run programs.
fn servers_user() -> Option<u32> {
    let names = ["www-data", "apache", "http", "wwwrun", "nginx"];
    names.into_iter().filter(|name| user::is_shared(name)).find_map(number_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Apache = Apache { is_copied: true, is_enabled: true, runs_cgi: true };

    fn own(apache: Apache) -> Host {
        Host { by_root: true, own: true, apache: Some(apache), nginx: false }
    }

    #[test]
    fn a_step_for_apache_that_was_forgotten_is_the_one_thing_that_is_told() {
        let lines = vec![Line::ok("path", "x"), Line::warn("length", "x", ""), Line::fail("Authorization", "x", "y")];
        assert_eq!(own(FINE).instead(lines.clone()), lines);
        for (apache, command) in [
            (Apache { is_enabled: false, ..FINE }, "a2enconf b24proxy && systemctl reload apache2"),
            (Apache { runs_cgi: false, ..FINE }, "a2enmod cgid && systemctl restart apache2"),
            (
                Apache { runs_cgi: false, is_enabled: false, ..FINE },
                "a2enmod cgid && a2enconf b24proxy && systemctl restart apache2",
            ),
        ] {
            let told = own(apache).instead(lines.clone());
            assert!(told.len() == 2 && told[1].cure == command && is_command(command), "{told:?}");
            assert_eq!(own(apache).instead(vec![Line::ok("path", "x")]).len(), 1, "it works all the same");
            let rented = Host { own: false, by_root: false, ..own(apache) };
            assert_eq!(rented.instead(lines.clone()), lines);
        }
        assert_eq!(own(Apache { is_copied: false, runs_cgi: false, ..FINE }).instead(lines.clone()), lines);
    }

    #[test]
    fn what_only_root_can_type_is_worded_for_who_reads_it() {
        let line = Line::fail("token folder", "x", "chown -R www-data /etc/b24proxy/tokens");
        let worded = |by_root, own| Host { by_root, own, ..Host::default() }.worded(line.clone()).cure;
        assert_eq!(worded(true, true), "chown -R www-data /etc/b24proxy/tokens");
        assert_eq!(worded(false, true), "sudo chown -R www-data /etc/b24proxy/tokens");
        assert_eq!(worded(false, false), "ask the host for: chown -R www-data /etc/b24proxy/tokens");
        let line = Line::fail("configuration", "x", "chmod 600 /x");
        assert_eq!(Host::default().worded(line.clone()), line);
    }

    #[test]
    fn a_server_that_refuses_connections_is_started() {
        assert_eq!(own(FINE).not_running().unwrap().1, "systemctl restart apache2");
        let by_sudo = Host { by_root: false, apache: None, nginx: true, ..own(FINE) };
        assert_eq!(by_sudo.not_running().unwrap(), ("is nginx running?", "sudo systemctl restart nginx".into()));
        assert_eq!(Host { own: false, ..own(FINE) }.not_running(), None);
        assert_eq!(Host::default().not_running(), None);
    }

    #[test]
    fn the_folder_of_the_site_is_given_whole_and_no_other() {
        assert_eq!(giving(Path::new("/etc/b24proxy/proxy.toml"), "www-data"), "chown -R www-data: /etc/b24proxy");
        assert_eq!(giving(Path::new("/etc/proxy.toml"), "www-data"), "chown www-data: /etc/proxy.toml");
    }
}
