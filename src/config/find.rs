//! Where `proxy.toml` is looked for, and whether the file found may be used.

use crate::system::disk::{is_anothers, not_waiting, own_path};
use crate::system::refusal::refused;
use crate::system::user::{self, typed, Barrier};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What of the process's environment decides about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `$B24PROXY_CONFIG`.
    pub named: Option<PathBuf>,
    /// The running executable.
    pub executable: Option<PathBuf>,
    /// `$DOCUMENT_ROOT`: the folder that the web server hands out.
    pub document_root: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub text: String,
    /// Why it may not be used all the same.
    pub wrong: Vec<String>,
}

impl Surroundings {
    /// From the variables `B24PROXY_CONFIG` and `DOCUMENT_ROOT`.
    pub fn new(named: Option<OsString>, document_root: Option<OsString>) -> Surroundings {
        Surroundings {
            named: named.filter(|path| !path.is_empty()).map(Into::into),
            executable: own_path().ok(),
            document_root: document_root.map(Into::into),
        }
    }

    pub fn refuse_below_document_root(&self, path: &Path, what: &str) -> Result<(), String> {
        match self.below_document_root(path) {
            None => Ok(()),
            Some((why, above)) => {
                let (path, above) = (typed(path), typed(&above));
                Err(format!("{what} {why}: move it, for example with: mkdir -p {above} && mv {path} {above}/"))
            }
        }
    }

    /// A log that is not there yet cannot be moved.
    pub fn refuse_log_below_document_root(&self, path: &Path) -> Result<(), String> {
        match self.below_document_root(path) {
            None => Ok(()),
            Some((why, above)) => {
                let other = above.join(path.file_name().unwrap_or_default());
                Err(format!("the log file {why}: delete it, and write under [log] file = \"{}\"", other.display()))
            }
        }
    }

    pub fn is_below_document_root(&self, path: &Path) -> bool {
        self.below_document_root(path).is_some()
    }

    /// Whether what is at this path, or would be, is handed out: the words for that, and a folder that is not.
    fn below_document_root(&self, path: &Path) -> Option<(String, PathBuf)> {
        let root = self.document_root.as_deref().filter(|root| !root.as_os_str().is_empty())?.canonicalize().ok()?;
        if !canonical(path)?.starts_with(&root) {
            return None;
        }
        let (path, shown) = (typed(path), typed(&root));
        let why = format!("{path} lies below the web server's document root {shown}, where anybody may download it");
        Some((why, root.parent().unwrap_or(Path::new("/")).join("b24proxy")))
    }

    /// The file that [`find`] would read, whether or not it may be used.
    pub fn locate(&self) -> Option<PathBuf> {
        let is_there = |path: &PathBuf| match path.metadata() {
            Ok(metadata) => metadata.is_file(),
            Err(error) => !is_absent(&error),
        };
        self.places().into_iter().find(|path| self.named.is_some() || is_there(path))
    }

    /// The places to look at, in order; absolute, because a refresh goes on in another folder.
    pub fn places(&self) -> Vec<PathBuf> {
        if let Some(named) = &self.named {
            return vec![std::path::absolute(named).unwrap_or_else(|_| named.clone())];
        }
        let mut places = Vec::new();
        if let Some(executable) = &self.executable {
            let folders = executable.ancestors().skip(1);
            places.extend(folders.clone().take(1).map(|folder| folder.join("proxy.toml")));
            places.extend(folders.map(|folder| folder.join("b24proxy/proxy.toml")));
        }
        places.push("/etc/b24proxy/proxy.toml".into());
        places
    }

    /// Where a configuration is best put: beside the highest folder that the web server hands out.
    fn recommended(&self) -> PathBuf {
        let executable = self.executable.as_deref().unwrap_or(Path::new("/"));
        let handed_out = |folder: &&Path| self.document_root.as_deref() == Some(*folder) || is_public(folder);
        let beside_root =
            self.document_root.as_deref().and_then(Path::parent).filter(|above| executable.starts_with(above));
        // Of the system's own cgi-bin, /usr/lib/cgi-bin, the configuration is the system's too.
        let beside_cgi = executable
            .ancestors()
            .find(|folder| folder.ends_with("cgi-bin") && !folder.starts_with("/usr"))
            .and_then(Path::parent);
        let above = executable.ancestors().filter(handed_out).last().and_then(Path::parent);
        let folder =
            above.or(beside_root).map(Path::to_owned).or(home_of(executable)).or(beside_cgi.map(Path::to_owned));
        match folder.map(|above| above.join("b24proxy")) {
            // The folder would stand in the executable's own place.
            Some(folder) if folder == executable => executable.with_file_name("proxy.toml"),
            Some(folder) => folder.join("proxy.toml"),
            None => "/etc/b24proxy/proxy.toml".into(),
        }
    }
}

/// Whether a folder has a name that hosts give to what they hand out.
pub fn is_public(folder: &Path) -> bool {
    const NAMES: [&str; 8] = ["public_html", "httpdocs", "htdocs", "html", "public", "webroot", "wwwroot", "www"];
    let is_named_so = folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| NAMES.contains(&name));
    // Debian hands out /var/www/html, and keeps other things beside it.
    is_named_so && folder != Path::new("/var/www")
}

/// `/home/u` of `/home/u/public_html/cgi-bin/b24proxy`: a customer's folder, as hosts lay them out.
pub fn home_of(path: &Path) -> Option<PathBuf> {
    let of_all = path.ancestors().find(|folder| {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let is_high = folder.components().count() <= 4;
        is_high && (name == "vhosts" || name.trim_end_matches(|c: char| c.is_ascii_digit()) == "home")
    })?;
    let customer = path.strip_prefix(of_all).ok()?.components().next()?;
    Some(of_all.join(customer))
}

/// The real path, of a path whose last parts may not exist yet.
fn canonical(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|ancestor| {
        let real = ancestor.canonicalize().ok()?;
        Some(real.join(path.strip_prefix(ancestor).ok()?))
    })
}

/// The first file there is. One that is there but may not be used is an error, not a reason to look further.
pub fn find(surroundings: &Surroundings) -> Result<Found, String> {
    let candidates = surroundings.places();
    for path in &candidates {
        let mut options = std::fs::OpenOptions::new();
        not_waiting(&mut options);
        match options.read(true).open(path) {
            Ok(file) => return read(file, path, surroundings),
            Err(error) if is_absent(&error) && surroundings.named.is_none() => {}
            Err(error) if is_absent(&error) => {
                return Err(format!(
                    "B24PROXY_CONFIG names {}, and there is no such file: mend or remove the variable",
                    path.display()
                ))
            }
            Err(error) => return Err(not_opened(path, &error)),
        }
    }
    let recommended = surroundings.recommended();
    let tried = candidates.iter().filter(|path| {
        // Below the executable, which is a file, there is nothing.
        **path != recommended && path.parent() != surroundings.executable.as_deref()
    });
    let tried: Vec<String> = tried.map(|path| path.display().to_string()).collect();
    Err(format!(
        "there is no proxy.toml: copy proxy.toml.example to {} and fill it in (also looked at: {})",
        recommended.display(),
        tried.join(", ")
    ))
}

/// Why a file that is there cannot be opened, and the command that mends it.
fn not_opened(path: &Path, error: &std::io::Error) -> String {
    if let Some(why) = refused(error) {
        return unread(path, why);
    }
    let failed = format!("{} cannot be read ({error})", path.display());
    match (user::barrier(path), user::own().map(user::name_of)) {
        // Only the file: the folder may hold what is another user's.
        (Some(Barrier { why, is_anothers: true, .. }), Some(me)) => {
            let neighbours = neighbours(&me, path);
            format!("{failed}; {why}, and this program runs as {me}{neighbours}: chown {me} {}", typed(path))
        }
        (Some(Barrier { why, command, .. }), _) => format!("{failed}; {why}: {command}"),
        (None, me) => format!("{failed}; it must be readable for {}", me.unwrap_or("this program's user".into())),
    }
}

/// What giving a file to this user means on web space that many share. What lies in /etc is laid out by who runs the machine.
fn neighbours(me: &str, path: &Path) -> &'static str {
    match user::is_shared(me) && !path.starts_with("/etc") {
        true => {
            " (where one user runs every customer's programs, what it can read, your neighbours can read too; ask the \
             host for suexec)"
        }
        false => "",
    }
}

fn unread(path: &Path, why: &str) -> String {
    format!("{} cannot be read: {why}", path.display())
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn read(mut file: std::fs::File, path: &Path, surroundings: &Surroundings) -> Result<Found, String> {
    let failed = |error: std::io::Error| match refused(&error) {
        Some(why) => unread(path, why),
        None => unread(path, &error.to_string()),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let secret = "can be read or written by others than its owner, and it holds secrets";
    let mut wrong: Vec<String> = refuse_of_others(&metadata, path, 0o066, (secret, "600")).err().into_iter().collect();
    wrong.extend(surroundings.refuse_below_document_root(path, "the configuration").err());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).unwrap_or_else(|_| {
        wrong.push(format!("{} is not UTF-8: save it as UTF-8 in the editor", path.display()));
        String::new()
    });
    Ok(Found { path: path.to_owned(), text, wrong })
}

/// Whoever can write the authorities' file decides who may pass for a portal. One that is not there is missed when it is
/// needed.
pub fn refuse_authorities_of_others(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(format!("ca_file {} is not a file", path.display())),
        Ok(metadata) => refuse_of_others(&metadata, path, 0o022, ("can be written by others than its owner", "go-w")),
        Err(_) => Ok(()),
    }
}

/// Refuses a file whose mode has one of these bits, with the words for that and the mode that mends it, and one that is owned
/// by neither this user nor root.
#[cfg(unix)]
fn refuse_of_others(metadata: &Metadata, path: &Path, bits: u32, (is_open, mode): (&str, &str)) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let shown = typed(path);
    if is_anothers(metadata) {
        let (owner, me) = (user::name_of(metadata.uid()), user::own().map_or(String::new(), user::name_of));
        let neighbours = neighbours(&me, path);
        return Err(format!(
            "{shown} belongs to {owner}, but this program runs as {me}{neighbours}: chown {me} {shown}"
        ));
    }
    match metadata.mode() & bits {
        0 => Ok(()),
        _ => Err(format!("{shown} {is_open}: chmod {mode} {shown}")),
    }
}

#[cfg(not(unix))]
fn refuse_of_others(_: &Metadata, _: &Path, _: u32, _: (&str, &str)) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_is_recommended_beside_what_is_handed_out_or_in_etc() {
        let place = |executable: &str, document_root: Option<&str>| {
            let document_root = document_root.map(PathBuf::from);
            let surroundings =
                Surroundings { executable: Some(executable.into()), document_root, ..Surroundings::default() };
            surroundings.recommended()
        };
        for (executable, document_root, expected) in [
            ("/home/u/public_html/cgi-bin/b24proxy", None, "/home/u/b24proxy/proxy.toml"),
            ("/home/u/site/html/html/cgi/b24proxy", None, "/home/u/site/b24proxy/proxy.toml"),
            ("/home/u/www/cgi-bin/b24proxy", Some("/home/u/www"), "/home/u/b24proxy/proxy.toml"),
            ("/home/u/www/cgi-bin/b24proxy", None, "/home/u/b24proxy/proxy.toml"),
            ("/home/u/example.com/cgi-bin/b24proxy", None, "/home/u/b24proxy/proxy.toml"),
            ("/srv/web1/cgi-bin/b24proxy", Some("/srv/web1/web"), "/srv/web1/b24proxy/proxy.toml"),
            ("/srv/web1/cgi-bin/b24proxy", None, "/srv/web1/b24proxy/proxy.toml"),
            ("/usr/lib/cgi-bin/b24proxy", Some("/var/www/html"), "/etc/b24proxy/proxy.toml"),
            ("/usr/lib/cgi-bin/b24proxy", None, "/etc/b24proxy/proxy.toml"),
            ("/opt/b24proxy", None, "/etc/b24proxy/proxy.toml"),
            ("/home/u/b24proxy", None, "/home/u/proxy.toml"),
        ] {
            assert_eq!(place(executable, document_root), Path::new(expected), "{executable}");
        }
    }

    #[test]
    fn the_search_goes_beside_the_executable_then_up_then_to_etc() {
        let surroundings =
            Surroundings { executable: Some("/home/u/public_html/cgi-bin/b24proxy".into()), ..Surroundings::default() };
        let expected: Vec<PathBuf> = [
            "/home/u/public_html/cgi-bin/proxy.toml",
            "/home/u/public_html/cgi-bin/b24proxy/proxy.toml",
            "/home/u/public_html/b24proxy/proxy.toml",
            "/home/u/b24proxy/proxy.toml",
            "/home/b24proxy/proxy.toml",
            "/b24proxy/proxy.toml",
            "/etc/b24proxy/proxy.toml",
        ]
        .map(PathBuf::from)
        .to_vec();
        assert_eq!(surroundings.places(), expected);
    }
}
