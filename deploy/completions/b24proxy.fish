# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_b24proxy_global_optspecs
    string join \n h/help V/version
end

function __fish_b24proxy_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_b24proxy_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_b24proxy_using_subcommand
    set -l cmd (__fish_b24proxy_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c b24proxy -n "__fish_b24proxy_needs_command" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -s V -l version -d 'Print version'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "check" -d 'Finds what is wrong, and says what to do about it'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "status" -d 'Each portal: does it work, its tokens, calls, errors and limits'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "call" -d 'Calls methods of a portal and prints the answers'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "install-url" -d 'The address at which a portal\'s administrator installs'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "refresh" -d 'Renews tokens that were not renewed for long (for cron)'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "token" -d 'A new token for a client such as 1C, and how it is configured'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "import" -d 'Takes over the tokens of a PHP proxy or of CRest'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "events" -d 'Shows what Bitrix24 reported, and is kept for 1C'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "move" -d 'Carries all that is stored to another place'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "fastcgi" -d 'Serves requests by FastCGI until told to end'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "completions" -d 'Prints a script that completes commands and options in a shell'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "version" -d 'The version'
complete -c b24proxy -n "__fish_b24proxy_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand check" -l url -d 'Ask the web server, at this address or at redirect_uri' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand check" -l user -d 'For this user, as whom the web server runs the program' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand check" -l schema -d 'Print the statements that make a database\'s tables only'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand check" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand check" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand status" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand status" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -l calls -d 'Execute the calls of a file, or of "-", standard input' -r -F
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -l key -d 'Name this run, so that it can be gone on with' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -l all -d 'Read a list to its end'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -l v3 -d 'Call REST 3.0'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand call" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand install-url" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand install-url" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand refresh" -l older-than -d 'Those renewed more than DAYS ago; 30, with --force 0' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand refresh" -l force -d 'Within five minutes of the last refresh, too'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand refresh" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand refresh" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand token" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand token" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand import" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand import" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand events" -l follow -d 'Go on with what comes'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand events" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand events" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand move" -l to -d 'A folder or a database; "-" reads it from standard input' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand move" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand move" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand fastcgi" -l listen -d 'Where: unix:PATH or ADDRESS:PORT' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand fastcgi" -l workers -d 'How many requests are served at once' -r
complete -c b24proxy -n "__fish_b24proxy_using_subcommand fastcgi" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand completions" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand version" -l json -d 'Print JSON, for programs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand version" -s h -l help -d 'Print help'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "check" -d 'Finds what is wrong, and says what to do about it'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "status" -d 'Each portal: does it work, its tokens, calls, errors and limits'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "call" -d 'Calls methods of a portal and prints the answers'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "install-url" -d 'The address at which a portal\'s administrator installs'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "refresh" -d 'Renews tokens that were not renewed for long (for cron)'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "token" -d 'A new token for a client such as 1C, and how it is configured'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "import" -d 'Takes over the tokens of a PHP proxy or of CRest'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "events" -d 'Shows what Bitrix24 reported, and is kept for 1C'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "move" -d 'Carries all that is stored to another place'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "fastcgi" -d 'Serves requests by FastCGI until told to end'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "completions" -d 'Prints a script that completes commands and options in a shell'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "version" -d 'The version'
complete -c b24proxy -n "__fish_b24proxy_using_subcommand help; and not __fish_seen_subcommand_from check status call install-url refresh token import events move fastcgi completions version help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
