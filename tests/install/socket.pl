# What Debian's fcgiwrap.socket and fcgiwrap.service do: opens the socket for
# www-data and starts the command in the arguments as that user, on it.
use strict;
use warnings;
use IO::Socket::UNIX;
use POSIX qw(setsid dup2);

my $path = '/run/fcgiwrap.socket';
my (undef, undef, $uid, $gid) = getpwnam('www-data') or die "no user www-data\n";
unlink $path;
my $socket = IO::Socket::UNIX->new(Local => $path, Listen => 128) or die "$path: $!\n";
chown $uid, $gid, $path and chmod 0660, $path or die "$path: $!\n";

my $pid = fork() // die "fork: $!\n";
if ($pid) {
    open my $file, '>', '/run/fcgiwrap.pid' or die "pid file: $!\n";
    print $file "$pid\n";
    exit 0;
}
setsid();
open STDOUT, '>>', '/var/log/fcgiwrap.log' or die "log: $!\n";
open STDERR, '>&', \*STDOUT;
dup2(fileno($socket), 0);
$( = $gid;
$) = "$gid $gid";
($<, $>) = ($uid, $uid);
%ENV = (PATH => '/usr/sbin:/usr/bin:/sbin:/bin');
exec @ARGV or die "$ARGV[0]: $!\n";
