/* The CNI plugin: hands what the runtime says to the agent of this node, and prints its answer.
 *
 * Request: "MGC" 1, length of the environment, length of stdin (both 4 bytes, big endian), then the
 * variables CNI_… and K8S_…, each with its terminating zero, then stdin as it came.
 * Answer:  "MGC" 1, exit status, length of the text (likewise), then the text for stdout.
 *
 * Without an answer it decides four things itself: VERSION from its list; ADD and CHECK: try again;
 * STATUS: not available; DEL and GC: success, since the agent finds by its own list what has gone.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SOCKET	 "/run/meshgate/cni.sock"
#define VERSION	 "1.1.0"
#define VERSIONS "\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
#define MOST	 (4u << 20) /* bytes of stdin, and of an answer */
#define AGAIN_MS 50	    /* between two attempts */

extern char **environ;

struct text {
	char *bytes;
	size_t length;
};

static const uint8_t magic[4] = {'M', 'G', 'C', 1};

static long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void put(struct text *to, const void *bytes, size_t length)
{
	to->bytes = realloc(to->bytes, to->length + length + 1);
	if (!to->bytes)
		exit(1);
	memcpy(to->bytes + to->length, bytes, length);
	to->length += length;
	to->bytes[to->length] = 0;
}

static void put_number(struct text *to, size_t number)
{
	uint8_t bytes[4] = {number >> 24, number >> 16, number >> 8, number};
	put(to, bytes, sizeof(bytes));
}

static struct text read_stdin(void)
{
	struct text in = {0};
	char part[4096];
	ssize_t got;

	put(&in, "", 0);
	while ((got = read(0, part, sizeof(part))) > 0 || (got < 0 && errno == EINTR))
		if (got > 0 && in.length < MOST)
			put(&in, part, got);
	return in;
}

/* The end of the JSON string that begins at the quotation mark. */
static const char *string_end(const char *at)
{
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && at[1])
			at++;
	return at;
}

/* The text of a field of the outermost object, as long as it needs no escapes; else the default. */
static const char *field(const char *json, const char *name, const char *otherwise)
{
	int depth = 0;

	for (const char *at = json; *at; at++) {
		depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
		if (*at != '"')
			continue;
		const char *end = string_end(at);
		size_t length = end - at - 1;
		bool named = depth == 1 && length == strlen(name) && !memcmp(at + 1, name, length);

		at = *end ? end : end - 1;
		const char *value = at + 1 + strspn(at + 1, " \t\r\n");
		if (!named || *value != ':')
			continue;
		value += 1 + strspn(value + 1, " \t\r\n");
		if (*value != '"')
			return otherwise;
		end = string_end(value);
		char *text = strndup(value + 1, end - value - 1);
		return text && *text && !strchr(text, '\\') ? text : otherwise;
	}
	return otherwise;
}

static struct text request(struct text in)
{
	struct text environment = {0}, whole = {0};

	put(&environment, "", 0);
	for (char **one = environ; *one; one++)
		if (!strncmp(*one, "CNI_", 4) || !strncmp(*one, "K8S_", 4))
			put(&environment, *one, strlen(*one) + 1);
	put(&whole, magic, sizeof(magic));
	put_number(&whole, environment.length);
	put_number(&whole, in.length);
	put(&whole, environment.bytes, environment.length);
	put(&whole, in.bytes, in.length);
	return whole;
}

/* Whether the socket is ready before the deadline. */
static bool ready(int fd, short events, long until)
{
	struct pollfd one = {.fd = fd, .events = events};
	long left = until - now_ms();

	return left > 0 && poll(&one, 1, (int)left) > 0;
}

static bool send_all(int fd, struct text what, long until)
{
	for (size_t at = 0; at < what.length;) {
		ssize_t sent =
		    send(fd, what.bytes + at, what.length - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0)
			at += sent;
		else if ((errno != EAGAIN && errno != EINTR) || !ready(fd, POLLOUT, until))
			return false;
	}
	return true;
}

static bool receive(int fd, void *to, size_t length, long until)
{
	for (size_t at = 0; at < length;) {
		if (!ready(fd, POLLIN, until))
			return false;
		ssize_t got = recv(fd, (char *)to + at, length - at, MSG_DONTWAIT);
		if (got > 0)
			at += got;
		else if (got == 0 || (errno != EAGAIN && errno != EINTR))
			return false;
	}
	return true;
}

static size_t number_at(const uint8_t *at)
{
	return (size_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

/* One attempt: the exit status of the agent's answer, printed; -1 without one. */
static int ask(const char *path, struct text what, long until)
{
	struct sockaddr_un there = {.sun_family = AF_UNIX};
	uint8_t head[12];
	char *text = NULL;
	int status = -1, fd;

	if (strlen(path) >= sizeof(there.sun_path))
		return -1;
	strcpy(there.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (!connect(fd, (struct sockaddr *)&there, sizeof(there)) && send_all(fd, what, until) &&
	    receive(fd, head, sizeof(head), until) && !memcmp(head, magic, sizeof(magic))) {
		size_t length = number_at(head + 8);
		if (length <= MOST)
			text = malloc(length + 1);
		if (text && receive(fd, text, length, until)) {
			fwrite(text, 1, length, stdout);
			status = fflush(stdout) ? 1 : (int)number_at(head + 4);
		}
	}
	free(text);
	close(fd);
	return status;
}

static int refuse(const char *version, int code, const char *why)
{
	printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\"}\n", version, code, why);
	return 1;
}

static int alone(const char *command, const char *version)
{
	if (!strcmp(command, "DEL") || !strcmp(command, "GC"))
		return 0;
	if (!strcmp(command, "STATUS"))
		return refuse(version, 50, "the Meshgate agent of this node does not answer");
	if (!strcmp(command, "ADD") || !strcmp(command, "CHECK"))
		return refuse(version, 11,
			      "the Meshgate agent of this node has not answered for 30 s");
	if (strcmp(command, "VERSION"))
		return refuse(version, 4, "CNI_COMMAND is none that CNI 1.1 knows");
	printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[" VERSIONS "]}\n", version);
	return 0;
}

int main(void)
{
	const char *command = getenv("CNI_COMMAND");
	struct text in = read_stdin(), what = request(in);
	const char *version = field(in.bytes, "cniVersion", VERSION);
	const char *path = field(in.bytes, "socket", SOCKET);
	const struct timespec pause = {.tv_nsec = AGAIN_MS * 1000000L};

	command = command ? command : "";
	bool waits = !strcmp(command, "ADD") || !strcmp(command, "CHECK");
	long until = now_ms() + (waits ? 30000 : 5000);

	for (;;) {
		int status = ask(path, what, until);
		if (status >= 0)
			return status;
		if (!waits || now_ms() >= until)
			return alone(command, version);
		nanosleep(&pause, NULL);
	}
}
