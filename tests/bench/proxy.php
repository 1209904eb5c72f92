#!/usr/bin/php-cgi
<?php
// The simplest honest proxy: what a PHP script must do to answer the same call. No rate limit, no log, no refresh, no
// idempotency keys, no configuration to be checked, and one certificate authority in place of the system's hundred and
// fifty (unless the benchmark says otherwise): whatever is left out is in PHP's favour.

function answer(int $status, array $body): never
{
    http_response_code($status);
    header('Content-Type: application/json; charset=utf-8');
    echo json_encode($body, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
    exit;
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

$curl = curl_init($tokens['client_endpoint'] . $request['method']);
curl_setopt_array($curl, [
    CURLOPT_POSTFIELDS => json_encode(['auth' => $tokens['access_token']] + ($request['params'] ?? [])),
    CURLOPT_HTTPHEADER => ['Content-Type: application/json', 'Accept: application/json', 'Expect:'],
    CURLOPT_CAINFO => $config['ca_file'],
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_CONNECTTIMEOUT => 10,
    CURLOPT_TIMEOUT => 55,
]);
$text = curl_exec($curl);
if ($text === false) {
    answer(502, ['success' => false, 'error' => curl_error($curl)]);
}
$data = json_decode($text, true);
if (curl_getinfo($curl, CURLINFO_RESPONSE_CODE) !== 200 || !isset($data['result'])) {
    answer(502, ['success' => false, 'error' => $data]);
}
answer(200, ['success' => true, 'data' => $data]);
