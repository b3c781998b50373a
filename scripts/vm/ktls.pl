# What kernel TLS (Documentation/networking/tls.rst) does here, on the loopback: each line is a finding.
# usage: perl ktls.pl ulp     whether this user's socket may have it
#        perl ktls.pl carry   whether TLS 1.3 with AES-128-GCM goes through: records on the wire, bytes at the other end
use strict;
use warnings;
use Socket;

my ($SOL_TCP, $TCP_ULP, $SOL_TLS, $TLS_TX, $TLS_RX) = (6, 31, 282, 1, 2);

# A connected pair of TCP sockets.
sub pair {
    socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    bind($listener, sockaddr_in(0, INADDR_LOOPBACK)) or die "bind: $!";
    listen($listener, 1) or die "listen: $!";
    socket(my $near, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
    connect($near, getsockname($listener)) or die "connect: $!";
    accept(my $far, $listener) or die "accept: $!";
    return ($near, $far);
}

sub ulp { my ($socket) = @_; return setsockopt($socket, $SOL_TCP, $TCP_ULP, "tls") ? "works" : "fails: $!"; }

# struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, record number.
my $keys = pack("SS", 0x0304, 51) . ("i" x 8) . ("k" x 16) . ("s" x 4) . ("\0" x 8);

sub get {
    my ($socket, $wanted) = @_;
    my $all = "";
    while (length($all) < $wanted) {
        sysread($socket, my $some, $wanted - length($all)) or last;
        $all .= $some;
    }
    return $all;
}

if ($ARGV[0] eq "ulp") {
    # Both ends stay open: a socket that is not connected any more is refused.
    my ($near, $far) = pair();
    print "setsockopt(TCP_ULP, tls) ", ulp($near), "\n";
    exit;
}

my $text = join("", map { chr($_ % 251) } 1 .. 40_000);
# Who listens on the wire sees records of 16 KiB, five bytes of head, and a content type and a tag of 17 bytes at the end.
my ($near, $far) = pair();
ulp($near) eq "works" or die "no ulp";
setsockopt($near, $SOL_TLS, $TLS_TX, $keys) or die "TLS_TX: $!";
syswrite($near, $text) == length($text) or die "write: $!";
my $wire = get($far, length($text) + 3 * 22);
my ($type, $version, $length) = unpack("Cnn", $wire);
printf "the first record on the wire: type %d, version %04x, %d bytes\n", $type, $version, $length;
index($wire, substr($text, 0, 64)) < 0 or die "in the clear";
# The other end deciphers what comes in.
($near, $far) = pair();
ulp($_) eq "works" or die "no ulp" for ($near, $far);
setsockopt($near, $SOL_TLS, $TLS_TX, $keys) or die "TLS_TX: $!";
setsockopt($far, $SOL_TLS, $TLS_RX, $keys) or die "TLS_RX: $!";
syswrite($near, $text) == length($text) or die "write: $!";
get($far, length($text)) eq $text or die "other bytes";
printf "%d bytes went through TLS_TX and TLS_RX\n", length($text);
# A change of keys in the middle of a connection: what a KeyUpdate of the peer asks for.
print "a second TLS_RX (KeyUpdate) ", (setsockopt($far, $SOL_TLS, $TLS_RX, $keys) ? "works" : "fails: $!"), "\n";
