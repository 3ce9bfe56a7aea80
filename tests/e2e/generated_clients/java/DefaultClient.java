import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Runs every step with the JDK's client and its defaults: on plain HTTP it offers an upgrade to HTTP/2. */
class DefaultClient {
    static String url;

    static String send(HttpClient client, String method, String path, String body, int expected) throws Exception {
        var publisher = body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
        var request = HttpRequest.newBuilder(URI.create(url + path)).method(method, publisher);
        if (body != null) request.header("Content-Type", "application/json");
        var response = client.send(request.build(), BodyHandlers.ofString());
        System.out.printf("%s %s %d %s%n", method, path, response.statusCode(), response.version());
        if (response.statusCode() != expected) throw new AssertionError(response.body());
        return response.headers().firstValue("Location").orElse(response.body());
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        String tasks = "/api/v1/users/java/tasks";
        // One client per step, because the first request of a client offers the upgrade.
        String task = send(HttpClient.newHttpClient(), "POST", tasks, "{\"title\": \"Buy milk\"}", 201);
        send(HttpClient.newHttpClient(), "GET", task, null, 200);
        send(HttpClient.newHttpClient(), "PATCH", task, "{\"completed\": true}", 200);
        send(HttpClient.newHttpClient(), "GET", tasks, null, 200);
        send(HttpClient.newHttpClient(), "DELETE", task, null, 204);
        // One client for all steps, whose later requests reuse its connection.
        var client = HttpClient.newHttpClient();
        String other = send(client, "POST", tasks, "{\"title\": \"Buy bread\"}", 201);
        send(client, "PATCH", other, "{\"completed\": true}", 200);
        send(client, "DELETE", other, null, 204);
    }
}
