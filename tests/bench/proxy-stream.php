<?php
// What PHP can do at best without an extension of its own: proxy.php, with a TLS connection that the worker of php-fpm keeps
// between requests. Written out once more, so that neither script pays for the other. In PHP's favour as there, and HTTP as
// far as the benchmark's portal speaks it: no chunks, no compression, and a call whose connection was lost is not judged.

function answer(int $status, array $body): never
{
    http_response_code($status);
    header('Content-Type: application/json; charset=utf-8');
    echo json_encode($body, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
    exit;
}

// The connection that the last request left, or a new one.
function connection(string $host, string $ca_file)
{
    $context = stream_context_create(['ssl' => ['cafile' => $ca_file]]);
    $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_PERSISTENT;
    // A kept one that the portal has closed is at its end: it goes, and the next is new.
    while (($stream = @stream_socket_client("tls://$host", $number, $message, 10, $flags, $context)) && feof($stream)) {
        fclose($stream);
    }
    if ($stream === false) {
        answer(502, ['success' => false, 'error' => $message]);
    }
    stream_set_timeout($stream, 55);
    return $stream;
}

// The status and the body of the answer; afterwards the connection stands at the next one.
function exchange($stream, string $host, string $path, string $body): array
{
    fwrite($stream, "POST $path HTTP/1.1\r\nHost: $host\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
        . 'Content-Length: ' . strlen($body) . "\r\n\r\n" . $body);
    $status = (int) substr((string) fgets($stream), 9, 3);
    $length = -1;
    $is_kept = true;
    while (($line = rtrim((string) fgets($stream))) !== '') {
        [$name, $value] = explode(':', $line, 2) + [1 => ''];
        if (strcasecmp($name, 'Content-Length') === 0) {
            $length = (int) $value;
        } elseif (strcasecmp($name, 'Connection') === 0 && stripos($value, 'close') !== false) {
            $is_kept = false;
        }
    }
    $text = $length > 0 ? (string) stream_get_contents($stream, $length) : '';
    if (!$is_kept || $length < 0 || strlen($text) !== $length) {
        fclose($stream);
    }
    return [$status, strlen($text) === $length ? $text : ''];
}

$config = json_decode(file_get_contents(__DIR__ . '/proxy.json'), true);
if (!hash_equals('Bearer ' . $config['auth_token'], $_SERVER['HTTP_AUTHORIZATION'] ?? '')) {
    answer(401, ['success' => false, 'error' => 'unauthorized']);
}
$request = json_decode(file_get_contents('php://input'), true);
if (!is_array($request) || !is_string($request['method'] ?? null)) {
    answer(400, ['success' => false, 'error' => 'invalid request']);
}
if (!in_array($request['domain'] ?? '', $config['portals'], true)) {
    answer(404, ['success' => false, 'error' => 'unknown portal']);
}
$file = $config['tokens'] . '/' . str_replace(':', '_', $request['domain']) . '.json';
$tokens = json_decode(file_get_contents($file), true);
if ($tokens['expires_at'] < time() + 60) {
    answer(503, ['success' => false, 'error' => 'a refresh is needed, which this script cannot do']);
}

$portal = parse_url($tokens['client_endpoint']);
$host = $portal['host'] . ':' . ($portal['port'] ?? 443);
[$status, $text] = exchange(
    connection($host, $config['ca_file']),
    $host,
    $portal['path'] . $request['method'],
    json_encode(['auth' => $tokens['access_token']] + ($request['params'] ?? [])),
);
$data = json_decode($text, true);
if ($status !== 200 || !isset($data['result'])) {
    answer(502, ['success' => false, 'error' => $data]);
}
answer(200, ['success' => true, 'data' => $data]);
