# socket.pl SOCKET USER COMMAND…: what systemd does with b24proxy.socket and
# b24proxy.service: opens the socket for the user and starts the command on it.
use strict;
use warnings;
use IO::Socket::UNIX;
use POSIX qw(setsid dup2);

my $path = shift;
my $user = shift;
my (undef, undef, $uid, $gid) = getpwnam($user) or die "no user $user\n";
unlink $path;
my $socket = IO::Socket::UNIX->new(Local => $path, Listen => 128) or die "$path: $!\n";
chown $uid, $gid, $path and chmod 0600, $path or die "$path: $!\n";

my $pid = fork() // die "fork: $!\n";
if ($pid) {
    open my $file, '>', '/run/b24proxy.pid' or die "pid file: $!\n";
    print $file "$pid\n";
    exit 0;
}
setsid();
open STDOUT, '>>', '/var/log/b24proxy.log' or die "log: $!\n";
open STDERR, '>&', \*STDOUT;
dup2(fileno($socket), 0);
$( = $gid;
$) = "$gid $gid";
($<, $>) = ($uid, $uid);
%ENV = (PATH => '/usr/sbin:/usr/bin:/sbin:/bin');
exec @ARGV or die "$ARGV[0]: $!\n";
