//! The words of the pages, in both languages side by side.

use super::language::Language;
use super::reasons;
use crate::install::{Doubted, Person, Problem};
use crate::serve::status::person;
use crate::values::error::{Arrived, Error};
use crate::values::portal::split_address;

/// Title, and what to do next.
pub type Text = (&'static str, Vec<String>);

/// Pieces of a page that have no place of their own in the sentences below: titles, labels and buttons.
pub struct Words {
    pub installed: &'static str,
    pub tried: &'static str,
    pub status: &'static str,
    pub portal: &'static str,
    pub administrator: &'static str,
    pub rights: &'static str,
    pub request: &'static str,
    pub portals_address: &'static str,
    pub install: &'static str,
    pub install_again: &'static str,
    pub begin_again: &'static str,
    pub replace: &'static str,
    pub try_a_call: &'static str,
    pub try_again: &'static str,
    pub log_in: &'static str,
    pub front: &'static str,
}

pub fn words(language: Language) -> Words {
    language.pick(
        Words {
            installed: "b24proxy установлен",
            tried: "Вызов выполнен",
            status: "Состояние b24proxy",
            portal: "Портал",
            administrator: "Администратор",
            rights: "Права",
            request: "Запрос из 1С",
            portals_address: "Адрес вашего Битрикс24",
            install: "Установить",
            install_again: "Установить ещё раз",
            begin_again: "Начать заново",
            replace: "Заменить токены",
            try_a_call: "Проверить вызов",
            try_again: "Проверить ещё раз",
            log_in: "Войти",
            front: "На главную",
        },
        Words {
            installed: "b24proxy is installed",
            tried: "The call was answered",
            status: "State of b24proxy",
            portal: "Portal",
            administrator: "Administrator",
            rights: "Rights",
            request: "The request from 1C",
            portals_address: "The address of your Bitrix24",
            install: "Install",
            install_again: "Install again",
            begin_again: "Begin again",
            replace: "Replace the tokens",
            try_a_call: "Try a call",
            try_again: "Try again",
            log_in: "Log in",
            front: "To the first page",
        },
    )
}

/// The same words in both languages, as a page's text.
fn text(language: Language, (russian, english): (&'static str, &'static str), paragraphs: &[(&str, &str)]) -> Text {
    let paragraphs = paragraphs.iter().map(|(russian, english)| language.pick(*russian, *english).to_owned());
    (language.pick(russian, english), paragraphs.collect())
}

pub fn front(language: Language) -> Text {
    text(
        language,
        ("b24proxy: вызовы из 1С в Битрикс24", "b24proxy: calls from 1C to Bitrix24"),
        &[
            (
                "Программа передаёт вызовы из 1С в Битрикс24 от имени администратора портала и сама обновляет токены.",
                "This program passes calls from 1C on to Bitrix24 on behalf of an administrator of the portal, and renews the \
                 tokens by itself.",
            ),
            (
                "Чтобы подключить портал, укажите его адрес, войдите как администратор и подтвердите доступ.",
                "To connect a portal, give its address, log in as its administrator and agree.",
            ),
        ],
    )
}

pub fn start(language: Language) -> Text {
    text(
        language,
        ("Установка b24proxy", "Install b24proxy"),
        &[
            (
                "b24proxy передаёт вызовы из 1С в Битрикс24 от имени администратора портала.",
                "b24proxy passes calls from 1C on to Bitrix24 on behalf of an administrator of the portal.",
            ),
            (
                "Сейчас откроется страница вашего Битрикс24. Войдите как администратор портала и подтвердите доступ: токены \
                 сохранятся на этом сервере, и обновлять их вручную не придётся.",
                "Your Bitrix24 opens next. Log in as an administrator of the portal and agree: the tokens are kept on this \
                 server and renewed by themselves.",
            ),
        ],
    )
}

pub fn tried(language: Language, user: &Person) -> String {
    let user = person(user.id, &user.name);
    language.pick(
        format!("Битрикс24 ответил на вызов profile. Вызовы из 1С выполняются от имени пользователя {user}."),
        format!("Bitrix24 answered the call of profile. Calls from 1C are made on behalf of {user}."),
    )
}

pub fn installed(language: Language) -> &'static str {
    language.pick(
        "Токены получены и сохранены. Эту страницу можно закрыть.",
        "The tokens have been received and stored. You can close this page.",
    )
}

/// A local application ends with the one who installed it.
pub fn service_account(language: Language) -> &'static str {
    language.pick(
        "Вызовы выполняются от имени этого администратора и прекратятся, если его уволят или лишат прав: для обмена лучше \
         завести служебного администратора и установить приложение от его имени.",
        "Calls are made as this administrator and end when that account is dismissed or loses its rights: better install \
         under a service administrator made for this.",
    )
}

/// What the portal and `proxy.toml` say of the OAuth server, and what to write there.
pub fn other_oauth_server(language: Language, Doubted { portal, asked }: &Doubted) -> String {
    let Some(words) = asked.words(portal) else { return String::new() };
    let words = match language {
        Language::Russian => reasons::doubt(&words).unwrap_or_default(),
        Language::English => words,
    };
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// Empty where every configured right was granted.
pub fn rights_not_granted(language: Language, missing: &[String]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let missing = missing.join(", ");
    language.pick(
        format!(
            "Не выданы права: {missing}. Отметьте их в настройках локального приложения в Битрикс24 и установите ещё раз; \
             без них такие методы ответят insufficient_scope."
        ),
        format!(
            "Rights that were not granted: {missing}. Tick them in the local application's settings in Bitrix24 and install \
             again; without them such methods answer insufficient_scope."
        ),
    )
}

pub fn works_already(language: Language) -> Text {
    text(
        language,
        ("b24proxy уже установлен и работает", "b24proxy is installed and works"),
        &[(
            "Ничего не изменилось: сохранённые токены действуют. Заменить их может администратор портала.",
            "Nothing was changed: the stored tokens are valid. An administrator of the portal can replace them.",
        )],
    )
}

/// Why something failed, which the rooms below tell in English.
pub fn reason(language: Language, why: &str) -> String {
    match language {
        Language::Russian => reasons::russian(why),
        Language::English => why.to_owned(),
    }
}

/// How fast a portal may be called, in Russian.
pub fn pace(rate: f64, burst: f64) -> String {
    format!("{} {} в секунду, подряд до {burst}", rate.to_string().replace('.', ","), requests(rate))
}

/// «запрос» as it stands behind a number; behind a fraction as behind 2.
fn requests(number: f64) -> &'static str {
    let (tens, ones) = (number % 100.0, number % 10.0);
    match () {
        () if number.fract() != 0.0 => "запроса",
        () if (11.0..15.0).contains(&tens) => "запросов",
        () if ones == 1.0 => "запрос",
        () if (2.0..5.0).contains(&ones) => "запроса",
        () => "запросов",
    }
}

/// A request to copy, with the token left out.
pub fn request_of_1c(language: Language, address: Option<&str>, portal: &str) -> String {
    let address = address.unwrap_or("https://www.example.com/cgi-bin/b24proxy");
    let (https, host, path) = match split_address(address) {
        Some((scheme, name, path)) => (scheme.as_str() == "https", name.to_string(), path.to_owned()),
        None => (true, "www.example.com".into(), "/cgi-bin/b24proxy".into()),
    };
    let (host, port) = match host.split_once(':') {
        Some((host, port)) => (host.to_owned(), port.to_owned()),
        None => (host, String::new()),
    };
    // Without authorities the platform does not look at the certificate of the server at all.
    let (secure, argument) = if https {
        ("Защита = Новый ЗащищенноеСоединениеOpenSSL(, Новый СертификатыУдостоверяющихЦентровОС);\n", ", Защита")
    } else {
        ("", "")
    };
    let token = language.pick("ВАШ_ТОКЕН", "YOUR_TOKEN");
    format!(
        "{secure}Соединение = Новый HTTPСоединение(\"{host}\", {port}, , , , 60{argument});\n\
         Запрос = Новый HTTPЗапрос(\"{path}\");\n\
         Запрос.Заголовки.Вставить(\"Authorization\", \"Bearer {token}\");\n\
         Тело = \"{{\"\"domain\"\":\"\"{portal}\"\",\"\"method\"\":\"\"profile\"\",\"\"params\"\":{{}}}}\";\n\
         Запрос.УстановитьТелоИзСтроки(Тело, КодировкаТекста.UTF8, ИспользованиеByteOrderMark.НеИспользовать);\n\
         Ответ = Соединение.ОтправитьДляОбработки(Запрос);\n\
         Сообщить(Ответ.ПолучитьТелоКакСтроку(КодировкаТекста.UTF8));"
    )
}

/// Pairs of the same words in both languages.
type Pair = (&'static str, &'static str);

fn unauthorized(arrived: Arrived) -> (Pair, &'static [Pair]) {
    const NEEDED: Pair = ("Нужен токен клиента", "A client's token is needed");
    const LOG_IN: Pair = (
        "Войдите с именем клиента и его токеном из proxy.toml; для auth_token подойдёт любое имя.",
        "Log in with a client's name and its token of proxy.toml; for auth_token any name does.",
    );
    const KEPT: Pair = (
        "Если верный токен не подходит, веб-сервер не передаёт программе заголовок Authorization: команда b24proxy check \
         --url назовёт строку, которая это исправит.",
        "If a token that is right is not taken, the web server keeps the Authorization header to itself: the command \
         b24proxy check --url names the line that mends it.",
    );
    match arrived {
        Arrived::Nothing => (NEEDED, &[LOG_IN, KEPT]),
        Arrived::Unreadable => (NEEDED, &[LOG_IN]),
        Arrived::Unknown => (("Такого токена нет", "This token is not known"), &[LOG_IN]),
    }
}

/// A request that could not be answered; `None`: such an error is told in JSON alone.
pub fn failure(language: Language, error: &Error) -> Option<Text> {
    Some(match error {
        Error::Unauthorized(arrived) => {
            let (title, paragraphs) = unauthorized(*arrived);
            text(language, title, paragraphs)
        }
        Error::Forbidden(why) => (
            language.pick("Доступ не разрешён", "This is not allowed"),
            vec![language.pick(
                "Адрес, с которого открыта страница, или сайт, с которого на неё перешли, не разрешён в proxy.toml. \
                 Причина и способ исправления указаны в журнале ошибок веб-сервера."
                    .into(),
                why.clone(),
            )],
        ),
        Error::NotFound => text(
            language,
            ("По этому адресу ничего нет", "There is nothing at this address"),
            &[(
                "Вызовы из 1С отправляются методом POST на адрес самой программы.",
                "Calls from 1C are POST requests to the program's own address.",
            )],
        ),
        _ => return None,
    })
}

/// Title, and what to do next.
pub fn problem(language: Language, problem: &Problem) -> Text {
    let not_installed = language.pick("Не установлено", "Not installed");
    let say = |russian: &str, english: &str| vec![language.pick(russian, english).to_owned()];
    let perhaps = |russian: &str, english: &str, doubted: &Option<Doubted>| {
        let doubt = doubted.iter().map(|doubted| other_oauth_server(language, doubted));
        say(russian, english).into_iter().chain(doubt).collect()
    };
    match problem {
        Problem::UnknownPortal(named) => (
            language.pick("Портал не настроен", "This portal is not configured"),
            vec![
                match named.as_str() {
                    "" => language.pick(
                        "Такого портала нет в настройках программы.".into(),
                        "The program's configuration has no such portal.".into(),
                    ),
                    named => language.pick(
                        format!("Портала «{named}» нет в настройках программы."),
                        format!("The program's configuration has no portal \u{201c}{named}\u{201d}."),
                    ),
                },
                language.pick(
                    "Проверьте адрес портала. Если он верен, попросите администратора сервера добавить раздел этого портала \
                     в proxy.toml."
                        .into(),
                    "Check the portal's address. If it is right, ask the server's administrator to add a section for it to \
                     proxy.toml."
                        .into(),
                ),
            ],
        ),
        Problem::NoPortalNamed => (
            language.pick("Не указан портал", "No portal is named"),
            say("Укажите адрес вашего Битрикс24.", "Give the address of your Bitrix24."),
        ),
        Problem::Webhook => (
            language.pick("Установка не требуется", "There is nothing to install"),
            say(
                "Этот портал вызывается через входящий вебхук, указанный в proxy.toml.",
                "This portal is called through an incoming webhook that proxy.toml names.",
            ),
        ),
        Problem::State => (
            language.pick("Ссылка больше не действует", "This link is no longer valid"),
            say(
                "Её открыли в другом браузере, прошло больше 10 минут или она уже использована. Начните заново.",
                "It was opened in another browser, is older than 10 minutes, or has been used. Begin again.",
            ),
        ),
        Problem::Receipt => (
            language.pick("Ссылка больше не действует", "This link is no longer valid"),
            say(
                "Страница об успешной установке открывается в течение 10 минут. Повторять установку не нужно: работает ли \
                 портал, видно на странице состояния.",
                "The page of a finished installation can be opened for 10 minutes. There is no need to install again: the \
                 page of the state says whether the portal works.",
            ),
        ),
        Problem::Denied { error, .. } if error.eq_ignore_ascii_case("access_denied") => (
            not_installed,
            say(
                "В Битрикс24 доступ не подтвердили (access_denied). Начните заново и подтвердите его.",
                "The access was not agreed to in Bitrix24 (access_denied). Begin again and agree.",
            ),
        ),
        Problem::Denied { error, .. } => {
            let code = if error.is_empty() { String::new() } else { format!(" ({error})") };
            (
                not_installed,
                vec![language.pick(
                    format!(
                        "Битрикс24 не дал доступа{code}. Проверьте client_id в proxy.toml и настройки локального приложения, \
                         затем начните заново."
                    ),
                    format!(
                        "Bitrix24 did not give access{code}. Check client_id in proxy.toml and the local application's \
                         settings, then begin again."
                    ),
                )],
            )
        }
        Problem::CodeSpent(doubted) => (
            language.pick("Код уже использован", "The code has been used already"),
            perhaps(
                "Код действует один раз и 30 секунд. Если установка уже прошла успешно, ничего делать не нужно; иначе \
                 начните заново.",
                "A code works once and for 30 seconds. If the installation has succeeded before, nothing is to be done; \
                 otherwise begin again.",
                doubted,
            ),
        ),
        Problem::TokenRefused(doubted) => (
            not_installed,
            perhaps(
                "Битрикс24 не подтвердил переданные токены. Откройте приложение в Битрикс24 ещё раз, как администратор \
                 портала.",
                "Bitrix24 did not confirm the tokens that came with this request. Open the application in Bitrix24 once \
                 more, as an administrator of the portal.",
                doubted,
            ),
        ),
        Problem::NotAdministrator => (
            language.pick("Нужен администратор портала", "An administrator of the portal is needed"),
            say(
                "Установить приложение может только администратор Битрикс24. Войдите в Битрикс24 как администратор и \
                 начните заново.",
                "Only an administrator of the Bitrix24 can install the application. Log in to Bitrix24 as one and begin \
                 again.",
            ),
        ),
        Problem::OtherPortal { wanted, got } => (
            language.pick("Вы вошли в другой портал", "This is another portal"),
            vec![language.pick(
                format!("Установка начата для {wanted}, а доступ подтверждён на {got}. Войдите в {wanted} и начните заново."),
                format!("The installation is for {wanted}, but access was given on {got}. Log in to {wanted} and begin again."),
            )],
        ),
        Problem::NoAddress => (
            not_installed,
            say(
                "Сервер авторизации сообщил недопустимый адрес портала: он не похож на https://АДРЕС_ПОРТАЛА/rest/. Проверьте в \
                 Битрикс24 адрес портала (в коробочной версии — в настройках главного модуля).",
                "The OAuth server gave an address of the portal that is not like https://ADDRESS_OF_THE_PORTAL/rest/. Check \
                 the portal's address in Bitrix24 (on-premise: in the settings of the main module).",
            ),
        ),
        Problem::PlainHttp => (
            not_installed,
            say(
                "Портал работает по http без шифрования. Переведите его на https или, только в закрытой сети, укажите \
                 allow_http = true в разделе [bitrix24] файла proxy.toml.",
                "The portal is served by plain http. Move it to https or, on a closed network only, set allow_http = true \
                 under [bitrix24] in proxy.toml.",
            ),
        ),
        Problem::Mismatch { portal, file, set_aside } => (
            language.pick("Под этим именем установлен другой Битрикс24", "Another Bitrix24 is installed under this name"),
            vec![match set_aside {
                None => language.pick(
                    format!(
                        "Сохранённые токены {portal} принадлежат другому Битрикс24 (member_id не совпадает). Если портал \
                         действительно заменён, переместите файл {file} из папки токенов и установите ещё раз."
                    ),
                    format!(
                        "The stored tokens of {portal} belong to another Bitrix24 (member_id differs). If the portal was \
                         really replaced, move the file {file} out of the token folder and install again."
                    ),
                ),
                Some(statement) => language.pick(
                    format!(
                        "Сохранённые токены {portal} принадлежат другому Битрикс24 (member_id не совпадает). Если портал \
                         действительно заменён, выполните в базе данных программы: {statement} и установите ещё раз."
                    ),
                    format!(
                        "The stored tokens of {portal} belong to another Bitrix24 (member_id differs). If the portal was \
                         really replaced, execute in the program's database: {statement} Then install again."
                    ),
                ),
            }],
        ),
        Problem::StillWorks => (
            language.pick("Токены действуют", "The tokens work"),
            say(
                "Битрикс24 принимает сохранённые токены, поэтому ничего не удалено.",
                "Bitrix24 accepts the stored tokens, so nothing was removed.",
            ),
        ),
        Problem::NotOurs => (
            language.pick("Отказано", "Refused"),
            say(
                "application_token не совпадает с сохранённым при установке.",
                "application_token is not the one that was stored at the installation.",
            ),
        ),
        Problem::NotInstalled => (
            not_installed,
            say("Для этого портала нет токенов.", "There are no tokens for this portal."),
        ),
        Problem::Refused => (
            language.pick("Битрикс24 не принимает токены", "Bitrix24 does not accept the tokens"),
            say(
                "Сохранённые токены больше не действуют: приложение удалено или установивший его пользователь потерял доступ. \
                 Установите заново как администратор портала.",
                "The stored tokens are valid no longer: the application was removed, or its installer may not use it any \
                 more. Install again as an administrator of the portal.",
            ),
        ),
        Problem::Attempts { retry_after } => (
            language.pick("Слишком много попыток", "Too many attempts"),
            vec![language.pick(
                format!("За последнюю минуту было слишком много попыток. Повторите через {retry_after} с."),
                format!("There were too many attempts within a minute. Try again in {retry_after} s."),
            )],
        ),
        Problem::Busy => (
            language.pick("Токены портала сейчас обновляются", "The portal's tokens are busy"),
            say(
                "Другой запрос сейчас обновляет токены этого портала. Повторите через несколько секунд.",
                "Another request is renewing this portal's tokens. Try again in a few seconds.",
            ),
        ),
        Problem::HostBusy(why) => (
            language.pick("Хостинг отказал программе", "The host refused the program"),
            vec![language.pick(
                format!(
                    "Хостинг не дал программе того, что ей нужно: {}. Повторите через несколько секунд; если ошибка \
                     останется, попросите администратора хостинга её исправить.",
                    reasons::russian(why)
                ),
                format!("The host refused what the program needs: {why}. Try again in a few seconds; if it stays so, let the \
                         host's administrator mend that."),
            )],
        ),
        Problem::Portal { why } => (
            language.pick("Портал не отвечает", "The portal does not answer"),
            vec![language.pick(
                format!("Не удалось узнать у портала, кто выполняет установку: {}. Повторите позже.", reasons::russian(why)),
                format!("The portal could not be asked who installs: {why}. Try again later."),
            )],
        ),
        Problem::Trial { why } => (
            language.pick("Вызов не выполнен", "The call was not answered"),
            vec![language.pick(
                format!("Портал не ответил на вызов profile: {}. Повторите позже.", reasons::russian(why)),
                format!("The portal did not answer the call of profile as Bitrix24 does: {why}. Try again later."),
            )],
        ),
        Problem::Oauth { why } => (
            language.pick("Сервер авторизации не выдал токены", "The OAuth server gave no tokens"),
            vec![language.pick(
                format!("Сервер авторизации Битрикс24: {}. Устраните причину или повторите позже.", reasons::russian(why)),
                format!("Bitrix24's OAuth server: {why}. Mend the cause, or try again later."),
            )],
        ),
        Problem::OtherOauthServer(doubted) => {
            let host = doubted.asked.server.host();
            (
                language.pick("Возможно, не тот сервер авторизации", "Perhaps the wrong OAuth server"),
                perhaps(
                    &format!("Сервер авторизации {host} не знает этого приложения или его токенов."),
                    &format!("The OAuth server {host} does not know this application or its tokens."),
                    &Some(doubted.clone()),
                ),
            )
        }
        Problem::WithoutRest(upstream) => (
            language.pick("На тарифе портала нет REST API", "The portal's plan has no REST API"),
            vec![language.pick(
                format!(
                    "Битрикс24 ответил {}: REST API доступен не на всех тарифах. Оплатите или продлите тариф либо подписку \
                     в разделе «Мой тариф» портала, затем начните заново.",
                    upstream.error
                ),
                format!(
                    "Bitrix24 answered {}: {}. Buy or renew the plan or its subscription in Bitrix24, then begin again.",
                    upstream.error,
                    upstream.error_description.trim_end_matches('.')
                ),
            )],
        ),
        Problem::Storage(_) => (
            language.pick("Хранилище токенов недоступно", "The token storage cannot be used"),
            say(
                "Программа не может читать или сохранять токены. Причина и способ исправления указаны в журнале ошибок \
                 веб-сервера, их назовёт и команда b24proxy check; затем начните заново.",
                "The program cannot read or store tokens. The web server's error log says why and what to mend, and so does the \
                 command b24proxy check; then begin again.",
            ),
        ),
        Problem::Configuration(_) => (
            language.pick("b24proxy настроен неверно", "b24proxy is not configured correctly"),
            say(
                "Причина и способ исправления указаны в журнале ошибок веб-сервера; их назовёт и команда b24proxy check.",
                "The web server's error log says why and what to mend, and so does the command b24proxy check.",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_as_in_russian() {
        for (rate, told) in [
            (1.0, "1 запрос в секунду, подряд до 50"),
            (2.0, "2 запроса в секунду, подряд до 50"),
            (5.0, "5 запросов в секунду, подряд до 50"),
            (11.0, "11 запросов в секунду, подряд до 50"),
            (21.0, "21 запрос в секунду, подряд до 50"),
            (0.5, "0,5 запроса в секунду, подряд до 50"),
        ] {
            assert_eq!(pace(rate, 50.0), told);
        }
    }
}
