//! Why something failed, in Russian. The rooms below tell it in English, for logs and clients; a page in Russian has no
//! English sentence in it. What has no Russian form here is not repeated: the log has it.

use crate::upstream::http::Obstacle;

/// A part of a sentence, without a full stop.
pub fn russian(why: &str) -> String {
    let why = why.trim();
    // Behind what an OAuth server refuses stands that it may be the wrong one.
    let doubted = why.match_indices("; ").find_map(|(at, _)| Some((&why[..at], doubt(&why[at + 2..])?)));
    match doubted {
        Some((why, doubt)) => format!("{}; {doubt}", without_doubt(why)),
        None => without_doubt(why),
    }
}

fn without_doubt(why: &str) -> String {
    if let Some(refused) = refused_by_host(why) {
        return refused.to_owned();
    }
    let (subject, told) = match why.split_once(' ') {
        Some(("it", told)) => ("он ", told),
        Some((host, told)) if host.contains(['.', ':']) && host.is_ascii() && !host.ends_with(':') => {
            (&why[..=host.len()], told)
        }
        _ => ("", why),
    };
    match predicate(told).or_else(|| obstacle(told)).or_else(|| of_oauth(told)) {
        Some(told) => format!("{subject}{told}"),
        None => "подробности указаны в журнале ошибок веб-сервера".into(),
    }
}

/// What this host refused (`system::refusal`).
fn refused_by_host(why: &str) -> Option<&'static str> {
    Some(match why {
        _ if why.contains("ulimit -u") => "этому пользователю больше нельзя запускать процессы и потоки (ulimit -u)",
        _ if why.contains("ulimit -n") => "этому процессу больше нельзя открывать файлы (ulimit -n)",
        _ if why.contains("this machine opens no more files") => "этот сервер больше не открывает файлов",
        _ if why.contains("ulimit -v") => "этому процессу больше не дают памяти (ulimit -v)",
        _ if why.contains("as many requests as may wait") => "уже ожидает столько запросов, сколько может",
        _ => return None,
    })
}

/// What the other side did (`Failure::text`, `Foreign::what`, `Refusal::text`).
fn predicate(told: &str) -> Option<String> {
    if let Some(reason) = told.strip_prefix("could not be reached: ") {
        let reason = obstacle(reason).map(|reason| format!(": {reason}")).unwrap_or_default();
        return Some(format!("недоступен{reason}"));
    }
    if let Some(what) = told.strip_prefix("answered with ") {
        return Some(answered_with(what));
    }
    if let Some(status) = told.strip_prefix("answered status ") {
        return Some(format!("ответил со статусом {}", digits(status)));
    }
    if let Some(code) = told.strip_prefix("answered ").filter(|code| is_code(code)) {
        return Some(format!("ответил ошибкой {code}"));
    }
    let known = [
        ("answered without tokens", "ответил, но токенов не выдал"),
        ("could not be reached in time", "не принял соединение вовремя"),
        ("did not answer in time", "не ответил вовремя"),
        ("Bitrix24 did not answer in time", "Битрикс24 не ответил вовремя"),
        ("Bitrix24 did not accept a connection in time", "Битрикс24 не принял соединение вовремя"),
        ("closed the connection", "закрыл соединение, не ответив"),
        ("sent an answer that is too long", "прислал слишком большой ответ"),
        ("has moved to another address", "переехал на другой адрес"),
    ];
    known.iter().find(|(english, _)| told.starts_with(english)).map(|(_, russian)| (*russian).to_owned())
}

fn answered_with(what: &str) -> String {
    let status = what.split("(status ").nth(1).map(digits).filter(|status| !status.is_empty());
    let status = status.map(|status| format!(" (статус {status})")).unwrap_or_default();
    let quoted = what.split('"').nth(1);
    if let Some(host) = what.strip_prefix("a redirect to ").and_then(|rest| rest.split(' ').next()) {
        let host = if host == "another" { "другой адрес" } else { host };
        return format!("перенаправляет на {host}{status}, а программа перенаправлениям не следует");
    }
    match quoted {
        Some(title) if what.starts_with("a web page") => format!("вернул веб-страницу «{title}»{status}"),
        None if what.starts_with("a web page") => format!("вернул веб-страницу{status}"),
        _ if what.starts_with("an empty body") => format!("вернул пустой ответ{status}"),
        _ if what.starts_with("tokens of another Bitrix24") => "выдал токены другого Битрикс24".into(),
        _ => format!("вернул то, что не похоже на ответ Битрикс24{status}"),
    }
}

fn digits(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("")
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Why there is no connection, and what mends it (`Obstacle::advised`).
fn obstacle(reason: &str) -> Option<String> {
    let known = [
        ("connection refused", "соединение отклонено"),
        ("connection reset", "соединение сброшено"),
        ("it closed the connection", "соединение закрыто"),
        ("host unreachable", "узел недоступен"),
        ("network unreachable", "сеть недоступна"),
        ("timed out", "время ожидания истекло"),
        ("the host name is not known", "имя узла не найдено в DNS"),
        ("the host name cannot be looked up now", "имя узла сейчас не определить: серверы DNS не отвечают"),
    ];
    let told = known.iter().find(|(english, _)| reason.starts_with(english)).map(|(_, russian)| (*russian).to_owned());
    told.or_else(|| WITH_CURE.into_iter().find(|obstacle| reason.ends_with(obstacle.cure().unwrap_or("\0"))).map(cured))
}

const WITH_CURE: [Obstacle; 12] = [
    Obstacle::Proxy,
    Obstacle::SelfSigned,
    Obstacle::NoIntermediate,
    Obstacle::UnknownAuthority,
    Obstacle::OldCertificate,
    Obstacle::OtherName,
    Obstacle::Expired,
    Obstacle::NotValidYet,
    Obstacle::Certificate,
    Obstacle::OldTls,
    Obstacle::NoCommonCipher,
    Obstacle::NotTls,
];

fn cured(obstacle: Obstacle) -> String {
    let told = match obstacle {
        Obstacle::Proxy => {
            "прокси-сервер не дал соединения; проверьте параметр proxy в разделе [bitrix24] файла proxy.toml или обратитесь \
             к тому, кто его обслуживает"
        }
        Obstacle::SelfSigned => {
            "сертификат самоподписанный; если это ваш сервер, укажите его сертификат (PEM) в параметре ca_file, иначе \
             обратитесь к хостингу: кто-то по пути отвечает вместо сервера"
        }
        Obstacle::NoIntermediate => {
            "сервер отдаёт сертификат без промежуточного; администратору того сервера: отдавайте всю цепочку \
             (fullchain.pem)"
        }
        Obstacle::UnknownAuthority => {
            "система не доверяет центру, выдавшему сертификат; сертификат собственного центра (PEM) укажите в параметре \
             ca_file, иначе обратитесь к хостингу: кто-то по пути расшифровывает TLS"
        }
        Obstacle::OldCertificate => "сертификат версии 1 не принимается; выпустите сертификат версии 3",
        Obstacle::OtherName => "сертификат выдан другому узлу; проверьте имя портала в proxy.toml",
        Obstacle::Expired => "срок действия сертификата истёк; проверьте часы сервера (date -u), иначе сертификат нужно продлить",
        Obstacle::NotValidYet => "срок действия сертификата ещё не начался; проверьте часы сервера (date -u)",
        Obstacle::Certificate => "сертификат не годится; его нужно выпустить заново",
        Obstacle::OldTls => "сервер поддерживает только TLS 1.1 и старее; администратору того сервера: включите TLS 1.2 или 1.3",
        Obstacle::NoCommonCipher => "у сервера нет общего с программой шифра; администратору того сервера: включите TLS 1.3",
        Obstacle::NotTls => "на этом порту отвечает не TLS; проверьте имя и порт в proxy.toml",
        Obstacle::UnknownHost | Obstacle::HostBusy | Obstacle::Refused | Obstacle::Other => "нет соединения",
    };
    told.to_owned()
}

/// What the OAuth server said (`Refusal::text`), without its own words.
fn of_oauth(why: &str) -> Option<String> {
    let known = [
        ("says that the token is spent, expired or revoked", "сообщает, что токен использован, истёк или отозван"),
        (
            "answered invalid_client: ",
            "ответил invalid_client: он не знает этого приложения или не на этом портале; проверьте client_id и \
             client_secret в proxy.toml и что приложение не удалено в Битрикс24",
        ),
        (
            "PAYMENT_REQUIRED: ",
            "PAYMENT_REQUIRED: на этом портале истёк пробный или оплаченный срок приложения либо оно там удалено; продлите \
             подписку в Битрикс24 или установите приложение заново",
        ),
        ("the portal has been deleted", "портал удалён"),
        ("the configuration cannot be used", "программа настроена неверно"),
        ("a refresh was begun and has not ended", "обновление токенов начато и ещё не закончено"),
    ];
    let told = known.iter().find(|(english, _)| why.starts_with(english)).map(|(_, russian)| (*russian).to_owned());
    told.or_else(|| {
        why.split(' ').next().filter(|code| is_code(code) && why[code.len()..].starts_with(" (")).map(str::to_owned)
    })
    .or_else(|| is_code(why).then(|| why.to_owned()))
}

/// Why the OAuth server that was asked may be the wrong one (`Asked::words`), and what mends it.
pub fn doubt(words: &str) -> Option<String> {
    const KNOWN: [(&str, &str); 6] = [
        (
            "the OAuth server in proxy.toml is {}, and the portal names {}: write oauth_server = \"{}\" under {}",
            "в proxy.toml указан oauth_server {}, а портал называет {}: напишите oauth_server = \"{}\" в разделе {}",
        ),
        (
            "the OAuth server in proxy.toml is {}, and what the portal names is none",
            "в proxy.toml указан oauth_server {}, а то, что называет портал, — не адрес сервера авторизации",
        ),
        (
            "the OAuth server in proxy.toml is {}, and the portal names {}, which is neither of Bitrix24's own: check \
             oauth_server there",
            "в proxy.toml указан oauth_server {}, а портал называет {}; это не один из двух серверов авторизации Битрикс24: \
             проверьте там oauth_server",
        ),
        (
            "what the portal names is no OAuth server, so {} is asked",
            "то, что называет портал, — не адрес сервера авторизации, поэтому запрос отправлен на {}",
        ),
        (
            "the portal names {}, which is neither of Bitrix24's own OAuth servers and is never asked, so {} is; if the portal \
             has an OAuth server of its own that you know, write its address as oauth_server under {}",
            "портал называет {}; это не один из двух серверов авторизации Битрикс24, и к нему программа не обращается: запрос \
             отправлен на {}; если у портала собственный сервер авторизации и вы его знаете, укажите его адрес в \
             oauth_server в разделе {}",
        ),
        (
            "nothing says which of Bitrix24's two OAuth servers the portal uses, so {} is asked; if it is the other one, \
             write oauth_server = \"{}\" under {}",
            "неизвестно, какой из двух серверов авторизации Битрикс24 у портала, поэтому запрос отправлен на {}; если у \
             портала другой, напишите oauth_server = \"{}\" в разделе {}",
        ),
    ];
    KNOWN.into_iter().find_map(|(english, russian)| filled(words, english, russian))
}

/// What stands in the text at the places `{}` of one form, in those of another.
fn filled(text: &str, form: &str, other: &str) -> Option<String> {
    let mut form = form.split("{}");
    let mut rest = text.strip_prefix(form.next()?)?;
    let mut told = other.split("{}");
    let mut filled = told.next()?.to_owned();
    for (fixed, other) in form.zip(told) {
        let at = if fixed.is_empty() { rest.len() } else { rest.find(fixed)? };
        filled.extend([&rest[..at], other]);
        rest = &rest[at + fixed.len()..];
    }
    rest.is_empty().then_some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::http::Failure;
    use crate::values::error::Executed;
    use crate::values::foreign::{Answered, Foreign};
    use crate::values::grant::Refusal;
    use crate::values::oauth_server::{Asked, OauthServer};
    use crate::values::portal::PortalName;
    use proptest::prelude::*;

    const UNTOLD: &str = "подробности указаны в журнале ошибок веб-сервера";

    /// Two words of English after one another are none of Russian's; names of settings and codes stand alone.
    fn has_english(text: &str) -> bool {
        let is_english = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_lowercase());
        let words: Vec<&str> = text.split(' ').map(|word| word.trim_matches([',', ';', ':', '.'])).collect();
        words.windows(2).any(|pair| pair.iter().all(is_english))
    }

    fn told(english: &str) -> String {
        let russian = russian(english);
        assert!(russian != UNTOLD && !has_english(&russian), "{english}: {russian}");
        assert!(russian.chars().any(|c| ('а'..='я').contains(&c)), "{english}: {russian}");
        russian
    }

    #[test]
    fn every_failure_to_get_an_answer_is_told_in_russian() {
        let why = "its certificate is for other hosts (a.example)";
        for obstacle in WITH_CURE {
            let failure = Failure::not_sent(why, obstacle);
            told(&format!("it {}", failure.text()));
            told(&obstacle.advised(why));
            assert!(
                told(&format!("oauth.example:8443 {}", failure.text())).starts_with("oauth.example:8443 недоступен: ")
            );
        }
        let lost = Failure::Lost { why: "connection reset".into(), stale: false };
        for failure in [Failure::Timeout(Executed::No), Failure::Timeout(Executed::Unknown), Failure::TooLarge, lost] {
            told(&format!("it {}", failure.text()));
        }
        for why in ["connection refused", "the host name is not known", "host unreachable", "TLS with it fails"] {
            told(&format!("it {}", Failure::not_sent(why, Obstacle::Other).text()));
        }
        assert_eq!(russian("it could not be reached: connection refused"), "он недоступен: соединение отклонено");
    }

    #[test]
    fn every_refusal_of_the_oauth_server_is_told_in_russian_without_its_own_words() {
        let description = "The grant is not valid any more".to_owned();
        for refusal in [
            Refusal::InvalidGrant { description: description.clone() },
            Refusal::InvalidGrant { description: String::new() },
            Refusal::InvalidClient { description: description.clone() },
            Refusal::PaymentRequired { description: description.clone() },
            Refusal::PortalDeleted,
            Refusal::Unavailable { why: "answered without tokens (status 500)".into() },
            Refusal::Unavailable { why: "answered with tokens of another Bitrix24".into() },
            Refusal::Unavailable { why: "did not answer in time".into() },
            Refusal::HostBusy { why: crate::system::refusal::NO_MEMORY.into() },
            Refusal::Configuration { why: String::new() },
        ] {
            for (asked, _) in asked() {
                told(&refusal.text(&asked, &portal()));
            }
        }
        let (certain, other) =
            (Asked::for_pair(None, "oauth.bitrix.info"), Refusal::Other { error: "invalid_scope".into(), description });
        assert_eq!(russian(&other.text(&certain, &portal())), "invalid_scope");
    }

    fn portal() -> PortalName {
        PortalName::parse("acme.bitrix24.ru").unwrap()
    }

    /// Each doubt, with what is told of it in Russian.
    fn asked() -> [(Asked, &'static str); 6] {
        let own = OauthServer::parse("https://oauth.lan:8443").unwrap();
        let pair = |server: Option<&OauthServer>, named: &str| Asked::for_pair(server, named);
        [
            (
                pair(Some(&own), "oauth.bitrix24.tech"),
                "oauth.bitrix24.tech: напишите oauth_server = \"https://oauth.bitrix24.tech\" в разделе [portals.\"acme.bitrix24.ru\"]",
            ),
            (pair(Some(&own), "\u{1b}"), "https://oauth.lan:8443, а то, что называет портал, — не адрес"),
            (pair(Some(&own), "oauth.own.example:1"), "называет oauth.own.example:1; это не"),
            (pair(None, "-"), "поэтому запрос отправлен на https://oauth.bitrix.info"),
            (pair(None, "oauth.own.example"), "oauth_server в разделе [portals.\"acme.bitrix24.ru\"]"),
            (pair(None, ""), "напишите oauth_server = \"https://oauth.bitrix24.tech\" в разделе"),
        ]
    }

    #[test]
    fn every_doubt_in_the_oauth_server_is_told_in_russian_also_behind_what_it_refused() {
        for (asked, part) in asked() {
            let words = asked.words(&portal()).unwrap();
            let russian = doubt(&words).unwrap_or_else(|| panic!("{words}"));
            assert!(russian.contains(part) && !has_english(&russian), "{words}: {russian}");
            let refusal = Refusal::InvalidClient { description: "Wrong client; try again".into() };
            let behind = told(&refusal.text(&asked, &portal()));
            assert!(behind.ends_with(&format!("Битрикс24; {russian}")), "{behind}");
        }
        assert_eq!(doubt("the portal names nobody"), None);
    }

    #[test]
    fn every_answer_that_is_not_bitrix24s_is_told_in_russian() {
        let what = |status, content_type, body: &[u8]| {
            let answered = Answered { status, content_type, body, ..Answered::default() };
            told(&format!("it answered with {}", Foreign::of(&answered).what))
        };
        let page = b"<html><title>Bad Gateway</title>";
        assert_eq!(what(502, Some("text/html"), page), "он вернул веб-страницу «Bad Gateway» (статус 502)");
        assert_eq!(
            what(302, None, b""),
            "он перенаправляет на другой адрес (статус 302), а программа перенаправлениям не следует"
        );
        for body in [&b""[..], b"<html>", b"text", b"{", b"[1]", b"\xff\xfe", b"Warning{\"result\":1}"] {
            what(200, None, body);
        }
        told("it answered status 500");
        told("it answered ACCESS_DENIED");
        told("it has moved to another address");
    }

    #[test]
    fn what_this_host_refuses_is_told_in_russian() {
        use rustix::io::Errno;
        for errno in [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            told(crate::system::refusal::refused(&errno.into()).unwrap());
        }
        told(crate::system::refusal::MANY_WAIT);
    }

    #[test]
    fn what_has_no_russian_form_is_not_repeated() {
        for english in ["", "something else happened here", "it did something odd", "it answered a b c"] {
            assert_eq!(russian(english).trim_start_matches("он "), UNTOLD, "{english}");
        }
    }

    proptest! {
        #[test]
        fn no_reason_panics(why in "\\PC{0,60}", told in "(it |h.x |answered |with |\"|\\(status |a web page|é){0,6}") {
            let _ = (russian(&why), russian(&told));
        }
    }
}
