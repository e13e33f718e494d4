"""A web server in a thread, for the tests of downloads: it serves bytes, and misbehaves on request."""
import http.server
import re
import threading
from urllib.parse import parse_qs, urlsplit


class FileServer:
    """Serves ``files`` (path to bytes).

    Attributes, to be changed at any time:
        ranges (bool): whether it knows Range. cut (int): an answer breaks off after so many bytes; None for never.
        length (bool): whether it tells the length. shift (int): a part begins so many bytes later than asked for.
        kind (str): Content-Type. drive (bool): answers as Google Drive does for a large file, by its id.
        asked (list): (path, the Range header or None) of each request.
    """

    def __init__(self, files):
        self.files, self.asked = dict(files), []
        self.ranges, self.cut, self.length, self.shift, self.kind, self.drive = True, None, True, 0, 'app/bytes', False
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), self._handler())
        self.address = 'http://127.0.0.1:{}'.format(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.01})
        self._thread.start()

    def stop(self):
        """End it, if it has not been."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server._answer(self)

            def log_message(self, *_):
                pass
        return Handler

    def _answer(self, handler):
        url = urlsplit(handler.path)
        asked = handler.headers.get('Range')
        self.asked.append((handler.path, asked))
        path = url.path
        if self.drive:
            query = parse_qs(url.query)
            path = '/' + query['id'][0]
            if 'confirm' not in query:
                page = ('<form id="download-form" action="https://drive.google.com/download" method="get">'
                        '<input type="hidden" name="id" value="{}"><input type="hidden" name="confirm" value="t">'
                        '</form>'.format(query['id'][0])).encode()
                return self._send(handler, 200, page, {'Content-Type': 'text/html; charset=utf-8'})
        if path not in self.files:
            return self._send(handler, 404, b'<html>nothing here</html>', {'Content-Type': 'text/html'})
        content, status, headers = self.files[path], 200, {'Content-Type': self.kind}
        if self.drive:
            headers['Content-Disposition'] = 'attachment; filename="{}"'.format(path[1:])
        begin = int(re.fullmatch(r'bytes=(\d+)-', asked).group(1)) if asked and self.ranges else 0
        if begin:
            if begin >= len(content):
                return self._send(handler, 416, b'', {'Content-Range': 'bytes */{}'.format(len(content))})
            begin += self.shift
            headers['Content-Range'] = 'bytes {}-{}/{}'.format(begin, len(content) - 1, len(content))
            status = 206
        self._send(handler, status, content[begin:], headers, self.cut)

    def _send(self, handler, status, body, headers, cut=None):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if self.length:
            handler.send_header('Content-Length', str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:cut])
